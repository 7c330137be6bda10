"""Learning by gradient in torch. Torch is optional, and imported only if a recipe needs it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from converter.cache.folder import NOWHERE, Cache
from converter.data.dataset import Dataset
from converter.learn.training_file import TrainingFile
from converter.runtime.session import Progress
from passes.base import Device, LayerPass, Pass
from passes.errors import DataError, QuantizationError
from passes.ir.model import Model
from passes.report import PassReport
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat

__all__ = ["learn_rounding", "require_device", "require_own", "require_trainable", "runs_on", "train"]

_FEW = 2  # number of images for the check that torch can run a network


def learn_rounding(
    model: Model,
    settings: LearnedRounding,
    data: Dataset | None,
    progress: Progress,
    *,
    solver: LayerPass | None,
    memory_budget: int,
    seed: int,
    kept: Cache = NOWHERE,
) -> PassReport:
    """Refine a quantized model. See `converter.learn.rounding.refine.refine_blocks`.

    Raises:
        QuantizationError: Torch is not installed, or `refine_blocks` raises it.
        DataError: There are no calibration data.
    """
    images = _required(settings.name, data)
    from converter.learn.rounding.refine import refine_blocks

    return refine_blocks(
        model, settings, images, progress, solver=solver, memory_budget=memory_budget, seed=seed, kept=kept
    )


def train(
    model: Model,
    settings: Qat,
    data: Dataset | None,
    progress: Progress,
    *,
    seed: int,
    checkpoint: TrainingFile | None,
    metric: Any = None,
) -> PassReport:
    """Train a quantized model. See `converter.learn.training.training_loop.train_network`.

    Raises:
        QuantizationError: Torch is not installed, or `train_network` raises it.
        DataError: There are no images, or `train_network` raises it.
    """
    images = _required(settings.name, data)
    from converter.learn.training.training_loop import train_network

    return train_network(model, settings, images, progress, seed=seed, checkpoint=checkpoint, metric=metric)


def require_device(passes: Iterable[Pass]) -> None:
    """Refuse a learning pass that has no device, before the passes that come before it.

    Raises:
        QuantizationError: Torch is not installed, or the requested CUDA device does not exist.
    """
    for step in passes:
        if step.device is not None:
            _require_torch(step.name)
            from converter.learn.device import find_device

            find_device(step.device, step.name)


def runs_on(device: Device, name: str) -> str:
    """Return the version of torch and the kind of device that a pass learns on, such as ``2.9.1 on cpu``.

    Raises:
        QuantizationError: Torch is not installed, or the requested CUDA device does not exist.
    """
    _require_torch(name)
    import torch

    from converter.learn.device import find_device

    return f"{torch.__version__} on {find_device(device, name).type}"


def require_trainable(model: Model, data: Dataset) -> None:
    """Refuse to train a network without gradients in torch, before the passes that take long.

    Args:
        model: Float graph in its final form.
        data: Training images.

    Raises:
        QuantizationError: See `converter.learn.training.trained_network.float_program`.
    """
    import torch

    from converter.learn.training.images import in_order
    from converter.learn.training.trained_network import float_program

    few = np.arange(min(_FEW, len(data)))
    float_program(model, next(in_order(data, few, len(few), torch.device("cpu"))).inputs)


def require_own(file: TrainingFile) -> None:
    """Refuse an existing file that does not hold a training of this origin.

    Raises:
        UsageError: See `converter.learn.training.checkpoint.require_own`.
        QuantizationError: Torch is not installed.
    """
    if not file.path.exists():
        return
    _require_torch(Qat.name)

    from converter.learn.training import checkpoint

    checkpoint.require_own(file)


def _require_torch(name: str) -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise QuantizationError(f"{name} learns with torch; pip install convert-onnx[torch]") from error


def _required(name: str, data: Dataset | None) -> Dataset:
    """Return the data. Require that there are data and that torch is installed."""
    _require_torch(name)
    if data is None:
        raise DataError(f"{name} needs calibration data; use `calibration=` with an .npz or a folder of images")
    return data
