"""Learned rounding: refine the codes, scales and biases of a quantized model by gradient, a block at a time.

Nagel et al. 2020 (AdaRound, arXiv 2004.10568) learn the rounding of a layer, Li et al. 2021 (BRECQ, arXiv 2102.05426)
that of a block, Wei et al. 2022 (QDrop, arXiv 2203.05740) with inputs mixed between both networks, Yvinec et al. 2023
(arXiv 2308.07662) with full offsets, scales and biases. This is the configuration; `converter.learn.learning` does the
work.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from passes.base import Device, LearningPass

__all__ = ["LearnedRounding"]


@dataclass(frozen=True)
class LearnedRounding(LearningPass):
    """Learned rounding, on top of the codes that a layer pass found and against the weights of `Model.float_weights`.

    A block that gains nothing on held-out images keeps its codes. Behind one that gains, the layers are solved again by
    the layer pass, on what they are given now, before they learn; that is left out where the layer pass does not look
    at its inputs (`rtn`, ``sequential = false``) or another pass stands between, and the network is asked after every
    block instead. If in the end the network's outputs have not gained on those images, everything is put back.

    Attributes:
        granularity: what is learned together: a block, a layer, or the whole network on its outputs.
        layers_per_block: at most, where the graph leaves a choice.
        steps: of Adam, for every block.
        batch: images per step.
        move_share: of a layer's rows, in how many at most a code moves at one step; 0: codes stay.
        certainty: a code moves if the gain exceeds so many standard errors of its gradient.
        scale_rate: learning rate of the scales' logarithms; it falls to zero along a cosine.
        bias_rate: learning rate of biases, in standard deviations of the layer's output; it falls likewise.
        drop: share of a block's input values taken from the float network.
        window: side of the piece taken from each image, for blocks that only look around themselves.
        held_out: share of the calibration images that judges; nothing learns from them.
        device: where it runs; auto: a CUDA device if there is one.
    """

    name: ClassVar[str] = "learned_rounding"

    granularity: Literal["block", "layer", "network"] = "block"
    layers_per_block: int = 4
    steps: int = 100
    batch: int = 32
    move_share: float = 0.06
    certainty: float = 1.0
    scale_rate: float = 0.001
    bias_rate: float = 0.003
    drop: float = 0.0
    window: int = 28
    held_out: float = 0.125
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name in ("layers_per_block", "steps", "batch", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("certainty", "scale_rate", "bias_rate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("scale_rate", "bias_rate"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, not {getattr(self, name)}")
        for name in ("move_share", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        super().__post_init__()
