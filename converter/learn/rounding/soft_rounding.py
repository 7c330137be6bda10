"""Soft rounding: each code lies between two neighbours while it learns, and a regularizer drives it to one of them.

Nagel et al. 2020 (AdaRound, arXiv 2004.10568), equations 22 to 25: a code is ``lower + h(v)`` with the rectified
sigmoid ``h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)``, and the loss has the term ``weight * sum(1 - |2 h - 1|^beta)``.
beta falls from 20 to 2, after a warm-up without the term.

Li et al. 2021 (BRECQ, arXiv 2102.05426) learn blocks in the same way.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converter.learn.rounding.fake_quantize import LearnedWeight
from passes.ir.linear import Linear
from passes.numerics.grid import Codes, Floats, Grid

__all__ = ["SoftWeight", "regularizer"]

_LOW, _HIGH = -0.1, 1.1  # stretch of the sigmoid
_WARM_UP = 0.2  # share of the steps without the regularizer
_FIRST_BETA, _LAST_BETA = 20.0, 2.0


class SoftWeight(LearnedWeight):
    """Codes of one layer between two neighbours each. One of the neighbours is the code that the weight starts from.

    The other neighbour lies on the side of the float weight. With codes rounded to nearest and ``start`` 1, a layer
    begins with its float weights, as in AdaRound. Codes of GPTQ may lie further than one step from the float weight:
    they make up for the errors of others. With ``start`` near 0, a layer begins near its codes.

    Args:
        layer: See `LearnedWeight`.
        codes: See `LearnedWeight`.
        grid: See `LearnedWeight`.
        bias: See `LearnedWeight`.
        unit: See `LearnedWeight`.
        step: See `LearnedWeight`.
        kept: See `LearnedWeight`.
        exact: Float weight ``[g, o, k]``.
        start: Share of the way from the code to the float weight, at most one step, at which the learning starts. 0 to
            1.

    Attributes:
        rounded: Whether the layer computes with whole codes (`codes`) instead of soft ones.
    """

    lower: Tensor

    def __init__(
        self,
        layer: Linear,
        codes: Codes,
        grid: Grid,
        bias: Floats | None,
        unit: Floats,
        step: float | None,
        kept: NDArray[np.bool_] | None,
        *,
        exact: Floats,
        start: float,
    ) -> None:
        super().__init__(layer, codes, grid, bias, unit, step, kept)
        size = self.multiple * self.spread(self.start_scale)
        unrounded = torch.from_numpy(exact.astype(np.float32)) / torch.where(size == 0, torch.inf, size)
        way = (unrounded + self.zero_point - self.codes).clamp(-1, 1)
        lower = (self.codes - (way < 0).to(way)).clamp(self.low, self.high - 1)
        self.register_buffer("lower", lower)
        share = (self.codes - lower + start * way).clamp(0, 1)
        self.logit = nn.Parameter(torch.logit((share - _LOW) / (_HIGH - _LOW)))
        self.nudge.requires_grad_(False)
        self.rounded = False

    def share(self) -> Tensor:
        """Share of the way from the lower neighbour to the upper one, 0 to 1, of shape ``[g, o, k]``."""
        return (torch.sigmoid(self.logit) * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def levels(self, scale: Tensor) -> Tensor:
        """Codes minus their zero points, ``[g, o, k]``. They are whole numbers if `rounded`."""
        if self.rounded:
            return super().levels(scale)
        return self.lower + self.share() - self.zero_point

    @torch.no_grad()
    def round_codes(self) -> None:
        """Take the nearest neighbours as `codes`, and compute with them."""
        nearest = self.lower + (self.share() >= 0.5)
        self.codes.copy_(torch.where(self.kept > 0, nearest, self.codes))  # removed weights keep theirs
        self.rounded = True


def regularizer(weights: Sequence[SoftWeight], progress: float) -> Tensor | None:
    """Sum over all codes of ``1 - |2 h - 1|^beta``.

    Args:
        weights: Weights of the block.
        progress: Share of the steps that are done. beta falls along a cosine.

    Returns:
        A scalar with gradients, or None during the warm-up.
    """
    if progress < _WARM_UP:
        return None
    part = (progress - _WARM_UP) / (1 - _WARM_UP)
    beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * 0.5 * (1 + math.cos(math.pi * part))
    return torch.stack([(1 - (2 * weight.share() - 1).abs().pow(beta)).sum() for weight in weights]).sum()
