"""Learning by gradient, in torch: an optional part, imported only when a recipe asks for it."""

from collections.abc import Callable
from pathlib import Path

from converter.data import Dataset
from converter.runtime import Progress
from passes.base import Model, PassReport
from passes.errors import DataError, QuantizationError
from passes.learned_rounding import LearnedRounding
from passes.qat import Qat

__all__ = ["learn_rounding", "train"]


def learn_rounding(
    model: Model, settings: LearnedRounding, data: Dataset | None, progress: Progress, *, budget: int, seed: int
) -> PassReport:
    """Refine a quantized model; see `converter.learn.refine.refine_blocks`.

    Raises:
        QuantizationError: torch is not installed, or what `refine_blocks` raises.
        DataError: there are no calibration data.
    """
    images = _required(settings.name, data)
    from converter.learn.refine import refine_blocks

    return refine_blocks(model, settings, images, progress, budget=budget, seed=seed)


def train(
    model: Model,
    settings: Qat,
    data: Dataset | None,
    progress: Progress,
    *,
    seed: int,
    checkpoint: Path | None,
    warn: Callable[[str], None],
) -> PassReport:
    """Train a quantized model; see `converter.learn.training_loop.train_network`.

    Raises:
        QuantizationError: torch is not installed, or what `train_network` raises.
        DataError: there are no images, or what `train_network` raises.
    """
    images = _required(settings.name, data)
    from converter.learn.training_loop import train_network

    return train_network(model, settings, images, progress, seed=seed, checkpoint=checkpoint, warn=warn)


def _required(name: str, data: Dataset | None) -> Dataset:
    """The data, once torch is there to learn from them."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise QuantizationError(f"{name} learns with torch; pip install convert-onnx[torch]") from error
    if data is None:
        raise DataError(f"{name} needs calibration data; use --calibration with images or an .npz")
    return data
