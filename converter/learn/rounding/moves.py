"""Which codes to move, and when. A code moves if the second-order expansion of the loss says that this pays.

Moving code j by one step against its gradient g_j changes the loss by ``h_j / 2 - |g_j|``, with h_j the curvature. At
few bits a step is coarse, and most gradients are far too small to pay for one. AdaRound, and Adam with the
straight-through estimator, collect gradients in latent offsets until these round to another code. That moves thousands
of codes that GPTQ has chosen so that their errors cancel. Here one code of a row moves at a time. It moves in the rows
that gain most, and only if the gain exceeds the uncertainty of its gradient.

h is the diagonal of the Gauss-Newton matrix. It is estimated with random signs (Bekas et al. 2007) and smoothed to the
product of one factor per row and one factor per column.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from converter.learn.rounding.fake_quantize import LearnedWeight

__all__ = ["CodeMoves", "curvature"]

_MEMORY = 0.9  # decay of the gradient's running mean
_SPREAD_MEMORY = 0.95  # decay of its running mean square
_WAIT = 3  # steps before the first move


def curvature(
    weights: Sequence[LearnedWeight],
    outputs: Iterable[Mapping[str, Tensor]],
    power: Mapping[str, Tensor],
    draws: torch.Generator,
) -> list[Tensor]:
    """Second derivative of the loss with respect to each code, ``[g, o, k]`` for every weight.

    Args:
        weights: Weights of the block.
        outputs: Outputs of the block for some batches, with gradients.
        power: The loss divides each output's squared error by this.
        draws: Random generator.
    """
    parameters = [weight.nudge for weight in weights]
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    count = 0
    for tensors in outputs:
        count += 1
        parts = []
        for name, value in tensors.items():
            signs = (torch.randint(0, 2, value.shape, generator=draws) * 2 - 1).to(value)
            parts.append((signs * value).sum() * torch.sqrt(2 / (value.numel() * len(tensors) * power[name])))
        for total, slope in zip(totals, torch.autograd.grad(torch.stack(parts).sum(), parameters), strict=True):
            total += slope.square()
    # Multiples differ by block, so a product of rows and columns cannot express them. They are divided out first.
    sizes = [weight.multiple.square() for weight in weights]
    return [_separable(total / count / size) * size for total, size in zip(totals, sizes, strict=True)]


def _separable(values: Tensor) -> Tensor:
    """Approximate by a product of one factor per row and one per column, from their means. The mean stays the same."""
    mean = values.mean(dim=(1, 2), keepdim=True)
    return values.mean(dim=2, keepdim=True) * values.mean(dim=1, keepdim=True) / mean.clamp_min(1e-30)


class CodeMoves:
    """Running statistics of the codes' gradients, and the moves that follow from them.

    Args:
        weights: Weights of the block.
        curvatures: Curvature of each weight, see `curvature`.
        share: Largest share of a layer's rows in which a code moves at one step.
        certainty: Standard errors of the gradient that a gain must exceed.
        batch_share: Share of the samples that one batch holds. It limits the certainty: a mean over batches is never
            more certain than all samples together.
    """

    def __init__(
        self,
        weights: Sequence[LearnedWeight],
        curvatures: Sequence[Tensor],
        *,
        share: float,
        certainty: float,
        batch_share: float,
    ) -> None:
        self.weights, self.curvatures = list(weights), list(curvatures)
        self.share, self.certainty = share, certainty
        self.variance_share = max((1 - _MEMORY) / (1 + _MEMORY), batch_share)
        self.mean = [torch.zeros_like(weight.codes) for weight in weights]
        self.square = [torch.zeros_like(weight.codes) for weight in weights]
        self.steps = 0

    @torch.no_grad()
    def step(self, move: bool) -> None:
        """Add the gradients of the last backward pass to the statistics, and move codes if ``move`` is set."""
        self.steps += 1
        for index, weight in enumerate(self.weights):
            slope = weight.nudge.grad
            if slope is None:
                continue
            self.mean[index].mul_(_MEMORY).add_(slope, alpha=1 - _MEMORY)
            self.square[index].mul_(_SPREAD_MEMORY).add_(slope.square(), alpha=1 - _SPREAD_MEMORY)
            if move and self.steps > _WAIT:
                self._move(index)

    def _move(self, index: int) -> None:
        weight, bend = self.weights[index], self.curvatures[index]
        filled = 1 - _MEMORY**self.steps
        slope = self.mean[index] / filled
        error = torch.sqrt(self.square[index] / (1 - _SPREAD_MEMORY**self.steps) * self.variance_share)
        direction = -torch.sign(slope)
        inside = (weight.codes + direction >= weight.low) & (weight.codes + direction <= weight.high)
        gain = torch.where(inside, slope.abs() - bend / 2 - self.certainty * error, -1.0)
        best, column = gain.max(dim=2, keepdim=True)  # [g, o, 1]
        rows = max(1, math.floor(self.share * best.numel()))
        least = best.flatten().topk(rows).values[-1]
        chosen = (best > 0) & (best >= least)
        steps = torch.zeros_like(gain).scatter_(2, column, direction.gather(2, column) * chosen)
        weight.codes += steps
        self.mean[index] += steps * bend * filled
