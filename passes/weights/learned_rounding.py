"""Configuration of learned rounding. `converter.learn.learning` does the learning.

Learned rounding refines the codes, scales and biases of a quantized model by gradient, one block at a time.

- Nagel et al. 2020 (AdaRound, arXiv 2004.10568) learn the rounding of one layer.
- Li et al. 2021 (BRECQ, arXiv 2102.05426) learn that of one block.
- Wei et al. 2022 (QDrop, arXiv 2203.05740) mix the inputs of the float and the quantized network.
- Yvinec et al. 2023 (arXiv 2308.07662) learn full offsets, scales and biases.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

from passes.base import Device, LearningPass
from passes.data_facts import DataFacts

__all__ = ["LearnedRounding"]


@dataclass(frozen=True)
class LearnedRounding(LearningPass):
    """Learned rounding. It starts from the codes of a layer pass and compares with `Model.float_weights`.

    A block that gains nothing on held-out samples keeps its codes. After a block that gains, the layer pass solves the
    following layers again on their new inputs, before they learn. This does not happen if the layer pass does not use
    inputs (`rtn`, ``sequential = false``), or if another pass is between the two. In that case the network is measured
    after every block instead. If the network's outputs have not gained on the held-out samples in the end, the model
    returns to its state before the pass.

    Attributes:
        granularity: What is learned together: a block, a layer, or the whole network on its outputs.
        layers_per_block: Greatest number of layers in a block, if the graph allows a choice.
        steps: Steps of the optimizer per block.
        batch: Images per step.
        method: How codes change. "moves": whole steps where the loss gains by them. "soft": soft rounding between two
            neighbours, with a regularizer that decides in the end (AdaRound). `steps` times `soft_rate` is about how
            far a code can move; it should be 5.
        loss: Error of a block's outputs. "error": squared error over variance. "network": the same, where a channel
            counts as much as the network's outputs depend on it (BRECQ). "cosine": 1 minus the cosine.
        move_share: Greatest share of a layer's rows in which a code changes in one step, with "moves". With 0, no code
            changes.
        certainty: With "moves", a code changes if the gain is greater than this many standard errors of its gradient.
        soft_rate: Learning rate of codes with "soft".
        soft_start: Share of the way from a code to the float weight at which soft rounding starts, 0 to 1. AdaRound
            starts codes that were rounded to nearest at 1.
        regularizer: Weight of the regularizer of soft rounding, for each code.
        scale_rate: Learning rate of the logarithms of scales.
        bias_rate: Learning rate of biases, in standard deviations of the layer's output.
        optimizer: "adam", or "sgd" with a momentum of 0.9.
        schedule: Learning rates fall to zero along a "cosine", or are "constant". "auto" is a cosine with "moves", and
            constant with "soft".
        drop: Share of a block's input values that come from the float network.
        window: Side of the crop of each image, for blocks whose outputs depend on a neighbourhood only.
        held_out: Share of the calibration images that judge the result. Nothing learns from them.
        device: Device of the learning. "auto" is a CUDA device if there is one.
    """

    name: ClassVar[str] = "learned_rounding"
    gives_back: ClassVar[bool] = True

    granularity: Literal["block", "layer", "network"] = "block"
    layers_per_block: int = 4
    steps: int = 100
    batch: int = 32
    method: Literal["moves", "soft"] = "moves"
    loss: Literal["error", "network", "cosine"] = "error"
    move_share: float = 0.06
    certainty: float = 1.0
    soft_rate: float = 0.01
    soft_start: float = 0.3
    regularizer: float = 0.01
    scale_rate: float = 0.001
    bias_rate: float = 0.003
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["auto", "cosine", "constant"] = "auto"
    drop: float = 0.0
    window: int = 28
    held_out: float = 0.125
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}")
        if self.method == "moves" and self.loss == "cosine":
            raise ValueError("loss = cosine has no second order for method = moves; use method = soft, or loss = error")
        for name in ("layers_per_block", "steps", "batch", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        rates = ("scale_rate", "bias_rate", "soft_rate", "regularizer")
        for name in ("certainty", *rates):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in rates:
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, not {getattr(self, name)}")
        for name in ("move_share", "drop", "soft_start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        super().__post_init__()

    @property
    def needs_gradients(self) -> bool:
        """Whether the loss weights channels by the network's outputs."""
        return self.loss == "network"

    @property
    def decays(self) -> bool:
        """Whether learning rates fall to zero."""
        return self.schedule == "cosine" or (self.schedule == "auto" and self.method == "moves")

    def requires_data(self, data: DataFacts) -> None:
        """Require enough samples, of one shape."""
        super().requires_data(data)
        data.require_batches(self.name)
