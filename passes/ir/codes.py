"""The check that a pass of weights left no layer undecided."""

from passes.errors import QuantizationError
from passes.ir.model import Model

__all__ = ["require_codes"]


def require_codes(model: Model, after: str) -> None:
    """Require that every layer has codes, or a reason to stay in float, after the pass of this name.

    Raises:
        QuantizationError: A layer has neither. The message names it.
    """
    for name in model.layers():
        if name not in model.quantized and name not in model.float_reasons:
            raise QuantizationError(f"{after} gave {name} no codes, and no reason to stay in float")
