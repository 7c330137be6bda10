"""Learning by gradient, in torch: an optional part, imported only when a recipe asks for it."""

from converter.data import Dataset
from converter.runtime import Progress
from passes.base import Model, PassReport
from passes.errors import DataError, QuantizationError
from passes.learned_rounding import LearnedRounding

__all__ = ["learn_rounding"]


def learn_rounding(
    model: Model, settings: LearnedRounding, data: Dataset | None, progress: Progress, *, budget: int, seed: int
) -> PassReport:
    """Refine a quantized model; see `converter.learn.refine.refine_blocks`.

    Raises:
        QuantizationError: torch is not installed, or what `refine_blocks` raises.
        DataError: there are no calibration data.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise QuantizationError(f"{settings.name} learns with torch; pip install convert-onnx[torch]") from error
    from converter.learn.refine import refine_blocks

    if data is None:
        raise DataError(f"{settings.name} needs calibration data; use --calibration with images or an .npz")
    return refine_blocks(model, settings, data, progress, budget=budget, seed=seed)
