"""Quantization-aware training: the whole network learns with its quantization in place.

Learned step sizes after Esser et al. 2020 (LSQ, arXiv 1902.08153), started from a post-training solution; what is
learned from are labels or, without them, the float network (distillation, Hinton et al. 2015, arXiv 1503.02531). This
is the configuration; `converter.learn.training.training_loop` does the work.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.base import Device, LearningPass

__all__ = ["Objective", "Qat"]

Objective = Literal["auto", "labels", "float"]


@dataclass(frozen=True)
class Qat(LearningPass):
    """Training of weights, step sizes and biases on the grids that the file will hold.

    Attributes:
        epochs: over the training images.
        batch: images per step.
        objective: labels (cross-entropy), the float network's outputs, or auto: labels if the data have them.
        optimizer: sgd, with momentum and gradients brought to one size tensor by tensor (LARS, You et al. 2017, arXiv
            1708.03888), or adam.
        rate: of learning, in steps of a weight's grid, logarithms of a scale, and standard deviations of a layer's
            output for its bias; it falls to zero along a cosine.
        momentum: of sgd.
        learn_activations: the step sizes of activations are learned too.
        flip: images are mirrored left to right, half of the time.
        shift: images are moved by up to so many pixels each way.
        held_out: share of the training images that chooses the best epoch; they are not learned from.
        device: where it runs; auto: a CUDA device if there is one.
    """

    name: ClassVar[str] = "qat"
    trains: ClassVar[bool] = True

    epochs: int = 10
    batch: int = 32
    objective: Objective = "auto"
    optimizer: Literal["sgd", "adam"] = "sgd"
    rate: float = 0.0003
    momentum: float = 0.9
    learn_activations: bool = True
    flip: bool = False
    shift: int = 0
    held_out: float = 0.1
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.shift < 0:
            raise ValueError(f"shift must not be negative, not {self.shift}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, not {self.rate}")
        if not math.isfinite(self.rate):
            raise ValueError(f"rate must be finite, not {self.rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        super().__post_init__()
