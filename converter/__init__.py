"""convert-onnx: small, fast, accurate quantized ONNX models.

>>> import converter
>>> result = converter.convert("model.onnx", "images/", recipe="int4")  # doctest: +SKIP
>>> result.save("model_int4.onnx")  # doctest: +SKIP

What is imported from here is loaded when it is first asked for, so that `convert-onnx --help` need not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

import converter._environment  # noqa: F401  (before numpy and onnxruntime)

if TYPE_CHECKING:
    from converter.budget.ladder import convert_within
    from converter.budget.limits import Budget
    from converter.data.preprocess import Preprocess
    from converter.pipeline.convert import convert
    from converter.pipeline.result import LayerReport, Result
    from converter.pipeline.train import train
    from converter.recipes.builtin import find_recipe
    from converter.recipes.recipe import Recipe
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
    "Budget": "converter.budget.limits",
    "ConvertError": "passes.errors",
    "LayerReport": "converter.pipeline.result",
    "Preprocess": "converter.data.preprocess",
    "Recipe": "converter.recipes.recipe",
    "Result": "converter.pipeline.result",
    "convert": "converter.pipeline.convert",
    "convert_within": "converter.budget.ladder",
    "find_recipe": "converter.recipes.builtin",
    "train": "converter.pipeline.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'converter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
