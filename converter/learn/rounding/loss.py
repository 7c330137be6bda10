"""Loss of a block: how far its outputs are from those of the float block."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from converter.learn.graph.program import Program

__all__ = ["BlockLoss", "output_importance"]

Tensors = Mapping[str, Tensor]

_SMALLEST = 1e-20
_DRAWS = 4  # random signs for each batch


class BlockLoss:
    """Loss of the outputs of a block, a scalar with gradients.

    - "error": squared error over the variance of the float outputs.
    - "network": the same, where each channel counts as much as the network's outputs depend on it (BRECQ, Li et al.
      2021, arXiv 2102.05426, equation 10).
    - "cosine": 1 minus the cosine between the outputs and the float outputs of each sample.

    Args:
        kind: One of these.
        target: Outputs of the float block on the training samples, by name.
        importance: For "network": factor of each channel, shaped to multiply the output, by name. See
            `output_importance`.
    """

    def __init__(
        self, kind: Literal["error", "network", "cosine"], target: Tensors, importance: Tensors | None = None
    ) -> None:
        self.kind = kind
        self.importance = {} if importance is None else {n: v for n, v in importance.items() if n in target}
        self.power = {name: _power(value, self.importance.get(name)) for name, value in target.items()}

    def __call__(self, outputs: Tensors, target: Tensors) -> Tensor:
        """Loss of some samples, averaged over the outputs."""
        if self.kind == "cosine":
            parts = [1 - torch.cosine_similarity(outputs[n].flatten(1), v.flatten(1)).mean() for n, v in target.items()]
        else:
            parts = [self._error(name, outputs[name] - value) for name, value in target.items()]
        return torch.stack(parts).mean()

    def weighted(self, outputs: Tensors) -> dict[str, Tensor]:
        """Outputs whose squares count as in the loss, before the division by `power`."""
        return {n: value * self.importance[n].sqrt() if n in self.importance else value for n, value in outputs.items()}

    def _error(self, name: str, difference: Tensor) -> Tensor:
        return self.weighted({name: difference})[name].square().mean() / self.power[name]


def output_importance(program: Program, inputs: Tensors, names: set[str], draws: torch.Generator) -> dict[str, Tensor]:
    """How much the outputs of the network depend on each channel of some tensors.

    It is the diagonal of ``J^T J`` with the Jacobian J of the outputs, each in units of its standard deviation, from
    random signs (Bekas et al. 2007), averaged over samples and positions. Its mean over the channels is 1.

    Args:
        program: The float network.
        inputs: Inputs of some samples, by name.
        names: Tensors of the network.
        draws: Random generator.

    Returns:
        Factors ``[1, c, 1, ...]`` (``[1, ..., 1, c]`` for other than images) by name. Tensors that do not take part are
        left out.
    """
    kept: dict[str, Tensor] = {}

    def after(name: str, value: Tensor) -> Tensor:
        if name in names and value.is_floating_point():
            if not value.requires_grad:
                value = value.requires_grad_()
            kept[name] = value
        return value

    outputs = program(inputs, after=after)
    totals = {name: torch.zeros_like(value) for name, value in kept.items()}
    for _ in range(_DRAWS):
        parts = []
        for value in outputs.values():
            signs = (torch.randint(0, 2, value.shape, generator=draws) * 2 - 1).to(value)
            parts.append((signs * value).sum() / value.detach().std().clamp_min(_SMALLEST))
        slopes = torch.autograd.grad(
            torch.stack(parts).sum(), list(kept.values()), retain_graph=True, allow_unused=True
        )
        for name, slope in zip(kept, slopes, strict=True):
            if slope is not None:
                totals[name] += slope.square()
    found = {name: _by_channel(torch.mean)(total) for name, total in totals.items()}
    return {name: (value / value.mean()).detach() for name, value in found.items() if value.mean() > 0}


def _by_channel(reduce: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    def reduced(value: Tensor) -> Tensor:
        channel = 1 if value.ndim == 4 else value.ndim - 1
        return reduce(value, dim=[axis for axis in range(value.ndim) if axis != channel], keepdim=True)

    return reduced


def _power(value: Tensor, importance: Tensor | None) -> Tensor:
    """Variance of each channel, averaged over channels. It is never zero."""
    axes = [axis for axis in range(value.ndim) if axis != 1 or value.ndim == 1]
    variance = value.var(dim=axes, unbiased=False, keepdim=True)
    if importance is not None:
        variance = variance * importance
    return variance.mean().clamp_min(_SMALLEST)
