"""Which codes to move, and when: those whose move the second order of the loss says will pay.

Moving code j by one step against its gradient g_j changes the loss by ``h_j / 2 - |g_j|``, with h_j the curvature. At
few bits a step is coarse, and most gradients are far too small for one: latent offsets that collect gradients until
they round over (AdaRound, Adam with the straight-through estimator) move thousands of codes that GPTQ has placed to
make up for one another. Here one code of a row moves at a time, in the rows that gain the most, and only where the gain
exceeds the uncertainty of its gradient.

h is the diagonal of the Gauss-Newton matrix, estimated with random signs (Bekas et al. 2007) and smoothed to the
product of a factor per row and a factor per column.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from converter.learn.rounding.fake_quantize import LearnedWeight

__all__ = ["CodeMoves", "curvature"]

_MEMORY = 0.9  # of the gradient's running mean
_SPREAD_MEMORY = 0.95  # of its running mean square
_WAIT = 3  # steps before the first move


def curvature(
    weights: Sequence[LearnedWeight],
    outputs: Iterable[Mapping[str, Tensor]],
    power: Mapping[str, Tensor],
    draws: torch.Generator,
) -> list[Tensor]:
    """Second derivative of the loss by each code, ``[g, o, k]`` for every weight.

    Args:
        weights: of the block.
        outputs: of the block for some batches, with gradients.
        power: what the loss divides each output's squared error by.
        draws: random state.
    """
    places = [weight.nudge for weight in weights]
    total = [torch.zeros_like(place) for place in places]
    count = 0
    for found in outputs:
        count += 1
        parts = []
        for name, value in found.items():
            signs = (torch.randint(0, 2, value.shape, generator=draws) * 2 - 1).to(value)
            parts.append((signs * value).sum() * torch.sqrt(2 / (value.numel() * len(found) * power[name])))
        for held, slope in zip(total, torch.autograd.grad(torch.stack(parts).sum(), places), strict=True):
            held += slope.square()
    sizes = [weight.multiple.square() for weight in weights]  # differ by block: no product of rows and columns
    return [_separable(held / count / size) * size for held, size in zip(total, sizes, strict=True)]


def _separable(values: Tensor) -> Tensor:
    """The nearest product of a factor per row and one per column, by their means; its scale does not change."""
    mean = values.mean(dim=(1, 2), keepdim=True)
    return values.mean(dim=2, keepdim=True) * values.mean(dim=1, keepdim=True) / mean.clamp_min(1e-30)


class CodeMoves:
    """Gradients of the codes as they come in, and the moves they call for.

    Args:
        weights: of the block.
        curvatures: of each, see `curvature`.
        share: of a layer's rows, in how many at most a code moves at once.
        certainty: standard errors of the gradient that a gain must exceed.
        batch_share: of the samples that one batch holds: no mean of batches is surer than all samples are.
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
        """Take in the gradients of the last backward pass; move codes if that is asked for."""
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
        way = -torch.sign(slope)
        inside = (weight.codes + way >= weight.low) & (weight.codes + way <= weight.high)
        gain = torch.where(inside, slope.abs() - bend / 2 - self.certainty * error, -1.0)
        best, place = gain.max(dim=2, keepdim=True)  # [g, o, 1]
        rows = max(1, math.floor(self.share * best.numel()))
        least = best.flatten().topk(rows).values[-1]
        chosen = (best > 0) & (best >= least)
        moved = torch.zeros_like(gain).scatter_(2, place, way.gather(2, place) * chosen)
        weight.codes += moved
        self.mean[index] += moved * bend * filled
