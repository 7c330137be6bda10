"""convert-onnx: small, fast, accurate quantized ONNX models.

>>> import converter
>>> result = converter.convert("model.onnx", "images/", recipe="int4")  # doctest: +SKIP
>>> result.save("model_int4.onnx")  # doctest: +SKIP

What is imported from here is loaded when it is first asked for, so that `convert-onnx --help` need not wait for it.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import converter.environment  # noqa: F401  (before numpy and onnxruntime)

if TYPE_CHECKING:
    from converter.budget import Budget, convert_within
    from converter.convert import convert
    from converter.data import Preprocess
    from converter.recipe import Recipe, find_recipe
    from converter.result import LayerReport, Result
    from converter.training import train
    from passes.errors import ConvertError

__all__ = [
    "Budget",
    "ConvertError",
    "LayerReport",
    "Preprocess",
    "Recipe",
    "Result",
    "convert",
    "convert_within",
    "find_recipe",
    "train",
]

_HOMES = {
    "Budget": "converter.budget",
    "ConvertError": "passes.errors",
    "LayerReport": "converter.result",
    "Preprocess": "converter.preprocess",
    "Recipe": "converter.recipe",
    "Result": "converter.result",
    "convert_within": "converter.budget",
    "find_recipe": "converter.recipe",
    "train": "converter.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'converter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """`converter.convert` is the function. Its module bears the same name, and importing that would hide it."""

    @property
    def convert(self) -> Any:
        return importlib.import_module("converter.convert").convert

    @convert.setter
    def convert(self, module: ModuleType) -> None:
        """The import system's note of the submodule, which `sys.modules` has as well."""


sys.modules[__name__].__class__ = _Package
