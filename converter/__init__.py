"""convert-onnx: small, fast, accurate quantized ONNX models.

>>> import converter
>>> result = converter.convert("model.onnx", "images/", recipe="int4")  # doctest: +SKIP
>>> result.save("model_int4.onnx")  # doctest: +SKIP
"""

import converter.environment  # noqa: F401  (before numpy and onnxruntime)
from converter.convert import convert
from converter.data import Preprocess
from converter.recipe import Recipe, find_recipe
from converter.result import LayerReport, Result
from passes.errors import ConvertError

__all__ = ["ConvertError", "LayerReport", "Preprocess", "Recipe", "Result", "convert", "find_recipe"]
