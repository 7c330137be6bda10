"""Loss of a block: how far its outputs are from those of the float block."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from converter.learn.graph.program import After, Program
from passes.errors import QuantizationError
from passes.ir.linear import Linear

__all__ = ["NO_GRADIENTS", "BlockLoss", "channel_axes", "output_importance"]

NO_GRADIENTS = "loss='network' needs gradients of the whole network: {}; use loss='error'"
"""Message for a network without gradients, with the reason to be put in."""

Tensors = Mapping[str, Tensor]

_SMALLEST = 1e-20
_MOVING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
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
        axes: Axis of the channels by name, see `channel_axes`. Of others it is guessed.
    """

    def __init__(
        self,
        kind: Literal["error", "network", "cosine"],
        target: Tensors,
        importance: Tensors | None = None,
        axes: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.kind, self.axes = kind, axes
        self.importance = {} if importance is None else {n: v for n, v in importance.items() if n in target}
        self.power = {name: _power(value, self.importance.get(name), axes.get(name)) for name, value in target.items()}

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


def channel_axes(graph: gs.Graph, layers: Mapping[str, Linear]) -> dict[str, int]:
    """Return the axis of the channels by tensor: 1 behind a convolution of any rank, and -1 behind Gemm and MatMul.

    Operators between layers keep it. Tensors behind one that moves axes are left out until the next layer.
    """
    axes: dict[str, int] = {}
    for node in graph.nodes:
        axis = next((axes[tensor.name] for tensor in node.inputs if tensor.name in axes), None)
        if node.name in layers:
            axis = 1 if layers[node.name].kernel else -1
        elif node.op in _MOVING:
            axis = None
        if axis is not None:
            axes.update({tensor.name: axis for tensor in node.outputs})
    return axes


def output_importance(
    program: Program,
    batches: Iterable[Tensors],
    names: Collection[str],
    draws: torch.Generator,
    axes: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """How much the outputs of the network depend on each channel of some tensors.

    It is the diagonal of ``J^T J`` with the Jacobian J of the outputs, each in units of its standard deviation, from
    random signs (Bekas et al. 2007), averaged over samples and positions. Its mean over the channels is 1.

    Args:
        program: The float network.
        batches: Inputs of some samples, by name.
        names: Tensors of the network.
        draws: Random generator.
        axes: As for `BlockLoss`.

    Returns:
        Factors ``[1, c, 1, ...]`` (``[1, ..., 1, c]`` where channels are last) by name. Tensors on which no output
        depends are left out.

    Raises:
        QuantizationError: No output is a number that varies over the samples.
    """
    totals: dict[str, Tensor] = {}
    varied = False
    for inputs in batches:
        kept: dict[str, Tensor] = {}
        outputs = [value for value in program(inputs, after=_noting(names, kept)).values() if _varies(value)]
        varied = varied or bool(outputs)
        for _ in range(_DRAWS if outputs else 0):
            parts = []
            for value in outputs:
                signs = (torch.randint(0, 2, value.shape, generator=draws) * 2 - 1).to(value)
                parts.append((signs * value).sum() / value.detach().std(unbiased=False))
            objective, tensors = torch.stack(parts).sum(), list(kept.values())
            slopes = torch.autograd.grad(objective, tensors, retain_graph=True, allow_unused=True)
            for name, slope in zip(kept, slopes, strict=True):
                if slope is not None:
                    squares = slope.square().mean(dim=_other_axes(slope, axes.get(name)), keepdim=True)
                    totals[name] = totals[name] + squares if name in totals else squares
    if not varied:
        raise QuantizationError("loss='network' needs an output that varies over the samples; use loss='error'")
    return {name: value / value.mean() for name, value in totals.items() if torch.isfinite(value).all() and value.any()}


def _noting(names: Collection[str], kept: dict[str, Tensor]) -> After:
    """Keep tensors of these names while a program runs, each with a gradient."""

    def after(name: str, value: Tensor) -> Tensor:
        if name in names and value.is_floating_point():
            if not value.requires_grad:
                value = value.requires_grad_()
            kept[name] = value
        return value

    return after


def _varies(value: Tensor) -> bool:
    """Whether an output can be divided by its standard deviation and depends on what was kept."""
    return value.is_floating_point() and value.requires_grad and bool(value.detach().std(unbiased=False) > 0)


def _other_axes(value: Tensor, channel: int | None) -> list[int]:
    """All axes but that of the channels. If it is not known, it is the second of images, else the last."""
    channel = (1 if value.ndim == 4 else -1) if channel is None else channel
    return [axis for axis in range(value.ndim) if axis != channel % value.ndim]


def _power(value: Tensor, importance: Tensor | None, channel: int | None) -> Tensor:
    """Variance of each channel, averaged over channels. It is never zero."""
    variance = value.var(dim=_other_axes(value, channel), unbiased=False, keepdim=True)
    if importance is not None:
        variance = variance * importance
    return variance.mean().clamp_min(_SMALLEST)
