"""What a block learns from: its inputs in both networks, as torch tensors, in windows where the block allows it.

A block of convolutions sees only the neighbourhood of each position, and neighbouring positions say much the same. So a
window of each image is enough, and its cost does not grow with the image. The float block computes the target from the
float window itself, so that the zeros past its edge are the same for both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Samples", "batches", "looks_around", "run_in_batches", "windows"]

Tensors = dict[str, Tensor]

_LOCAL = frozenset(
    {"Add", "BatchNormalization", "Clip", "Concat", "Conv", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Mul", "PRelu", "Relu", "Sigmoid", "Sub", "Tanh"}
)
_ALIGNMENT = 32  # a window starts where every stride of a network does
_EVALUATED = 32  # images at once without gradients


@dataclass(frozen=True)
class Samples:
    """Inputs of a block, and what it should make of them; every tensor has one entry per sample.

    Attributes:
        quantized: inputs as the quantized network produces them.
        exact: the float network's.
        target: outputs of the float block for `exact`.
    """

    quantized: Tensors
    exact: Tensors
    target: Tensors

    def __len__(self) -> int:
        return len(next(iter(self.quantized.values())))


def looks_around(nodes: Sequence[gs.Node], inputs: Mapping[str, NDArray[np.float32]]) -> bool:
    """Whether a window of the inputs gives a window of the outputs: local operators, images of one size."""
    sizes = {values.shape[2:] for values in inputs.values()}
    images = all(values.ndim == 4 for values in inputs.values())
    uniform = all(tuple(tensor.shape[-2:]) == (1, 1) for node in nodes for tensor in _operands(node))
    return images and len(sizes) == 1 and uniform and all(node.op in _LOCAL for node in nodes)


def windows(inputs: Mapping[str, NDArray[np.float32]], side: int | None, device: torch.device, seed: int) -> Tensors:
    """A window of every image, the same one for all inputs; whole tensors for ``side`` None or at least the image.

    Args:
        inputs: ``[n, c, h, w]`` by name, or anything for ``side`` None.
        side: of the window.
        seed: of its place; arrays of the same sizes get the same.
    """
    first = next(iter(inputs.values()))
    if side is None or side >= min(first.shape[2:]):
        return {name: _on_device(values, device) for name, values in inputs.items()}
    rng = np.random.default_rng(seed)
    step = min(_ALIGNMENT, side & -side)
    places = [rng.integers(0, (size - side) // step + 1, len(first)) * step for size in first.shape[2:]]
    cut: dict[str, NDArray[np.float32]] = {}
    for name, values in inputs.items():
        pieces = [image[:, y : y + side, x : x + side] for image, y, x in zip(values, *places, strict=True)]
        cut[name] = np.stack(pieces)
    return {name: _on_device(values, device) for name, values in cut.items()}


def batches(count: int, size: int, steps: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Indices of the samples of every step: each sample once before any comes again."""
    order = torch.randperm(count, generator=draws)
    place = 0
    for _ in range(steps):
        if place + size > count:
            order, place = torch.randperm(count, generator=draws), 0
        yield order[place : place + size]
        place += size


@torch.no_grad()
def run_in_batches(function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
    """The function's outputs for all samples, without gradients."""
    count = len(next(iter(inputs.values())))
    parts = [
        function({name: values[start : start + _EVALUATED] for name, values in inputs.items()})
        for start in range(0, count, _EVALUATED)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _on_device(values: NDArray[np.float32], device: torch.device) -> Tensor:
    """Images with their channels last: depthwise convolutions learn two to five times as fast on a CPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _operands(node: gs.Node) -> list[gs.Constant]:
    """Constants of several axes that an element-wise operator reads; they might differ from place to place."""
    weighted = node.op in {"Conv", "BatchNormalization"}
    return [t for t in node.inputs if isinstance(t, gs.Constant) and len(t.shape) > 1 and not weighted]
