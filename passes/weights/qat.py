"""Configuration of quantization-aware training. `converter.learn.training.training_loop` does the training.

The whole network is trained with its quantization in place. Step sizes are learned after Esser et al. 2020 (LSQ, arXiv
1902.08153). The training starts from a post-training solution. It learns from labels or, without them, from the float
network (distillation, Hinton et al. 2015, arXiv 1503.02531).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.base import Device, LearningPass
from passes.data_facts import DataFacts
from passes.errors import DataError

__all__ = ["FROM_FLOAT", "Objective", "Qat"]

Objective = Literal["auto", "labels", "float"]

FROM_FLOAT = "`objective='float'` (objective = 'float' in a recipe) learns from the float network"


@dataclass(frozen=True)
class Qat(LearningPass):
    """Training of weights, step sizes and biases on the grids that the file will hold.

    Attributes:
        epochs: Number of passes over the training images.
        batch: Images per step.
        objective: "labels" (cross-entropy), "float" (outputs of the float network), or "auto": labels if the data have
            them, else the float network.
        optimizer: "sgd" or "adam". "sgd" has momentum, and scales the gradient of every tensor to the same size (LARS,
            You et al. 2017, arXiv 1708.03888).
        rate: Learning rate, in steps of the grid for a weight, in logarithms for a scale, and in standard deviations of
            the layer's output for a bias. It falls to zero along a cosine.
        momentum: Momentum of sgd.
        learn_activations: Whether the step sizes of activations are learned too.
        flip: Whether half of the images, at random, are mirrored left to right.
        shift: Greatest random shift of an image in each direction, in pixels.
        held_out: Share of the training images that choose the best epoch. The training does not learn from them.
        device: Device of the training. "auto" is a CUDA device if there is one.
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

    def requires_data(self, data: DataFacts) -> None:
        """Require enough images, labels if the settings name them, and images if they are to be flipped or shifted."""
        super().requires_data(data)
        data.require_batches(self.name)
        if self.objective == "labels" and not data.labelled:
            raise DataError(f"{data.source} has no labels; {FROM_FLOAT}")
        if data.static_batch is not None:
            raise DataError(
                f"the model's batch is fixed to {data.static_batch}, and training takes batches of its own; export it "
                "with a dynamic batch"
            )
        if (self.flip or self.shift) and 4 not in data.ranks:
            raise DataError("`flip=` and `shift=` are for images, and no input of the model has 4 axes")
