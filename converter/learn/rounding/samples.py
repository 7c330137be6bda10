"""Training samples of a block: its inputs in both networks as torch tensors, cut to windows where the block allows it.

An output position of a convolutional block depends only on its neighbourhood, and neighbouring positions are similar.
So one window of each image is enough, and the cost does not grow with the image. The float block computes the target
from the same window of its float input. So the zero padding at the window's edge is the same for both.
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
_ALIGNMENT = 32  # a window starts at a multiple of this, so that it is aligned with every stride of a network
_EVALUATED = 32  # images per batch without gradients


@dataclass(frozen=True)
class Samples:
    """Inputs and target outputs of a block. Every tensor has one entry per sample.

    Attributes:
        quantized: Inputs that the quantized network produces.
        exact: Inputs that the float network produces.
        target: Outputs of the float block for `exact`.
    """

    quantized: Tensors
    exact: Tensors
    target: Tensors

    def __len__(self) -> int:
        return len(next(iter(self.quantized.values())))


def looks_around(nodes: Sequence[gs.Node], inputs: Mapping[str, NDArray[np.float32]]) -> bool:
    """Whether a window of the inputs gives a window of the outputs: all operators are local, all images one size."""
    sizes = {values.shape[2:] for values in inputs.values()}
    images = all(values.ndim == 4 for values in inputs.values())
    uniform = all(tuple(tensor.shape[-2:]) == (1, 1) for node in nodes for tensor in _operands(node))
    return images and len(sizes) == 1 and uniform and all(node.op in _LOCAL for node in nodes)


def windows(
    inputs: Mapping[str, Sequence[NDArray[np.float32]]], side: int | None, device: torch.device, seed: int
) -> Tensors:
    """Cut the same window of every image out of all inputs. If ``side`` is None or not below the image's, cut nothing.

    Args:
        inputs: Arrays ``[n, c, h, w]`` by name, one for each batch. Any shape if ``side`` is None.
        side: Side of the window, in positions.
        device: Device of the result.
        seed: Random seed of the positions. Arrays of equal sizes get equal positions.
    """
    first = next(iter(inputs.values()))
    size = first[0].shape[2:]
    if side is None or side >= min(size):
        return {name: _on_device(np.concatenate(parts), device) for name, parts in inputs.items()}
    rng = np.random.default_rng(seed)
    step, count = min(_ALIGNMENT, side & -side), sum(len(part) for part in first)
    offsets = [rng.integers(0, (length - side) // step + 1, count) * step for length in size]
    cut: dict[str, NDArray[np.float32]] = {}
    for name, parts in inputs.items():
        images = (image for part in parts for image in part)
        cut[name] = np.stack(
            [image[:, y : y + side, x : x + side] for image, y, x in zip(images, *offsets, strict=True)]
        )
    return {name: _on_device(values, device) for name, values in cut.items()}


def batches(count: int, size: int, steps: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Yield the sample indices of every step. Every sample occurs once before any occurs again."""
    order = torch.randperm(count, generator=draws)
    start = 0
    for _ in range(steps):
        if start + size > count:
            order, start = torch.randperm(count, generator=draws), 0
        yield order[start : start + size]
        start += size


@torch.no_grad()
def run_in_batches(function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
    """Outputs of a function for all samples, without gradients."""
    count = len(next(iter(inputs.values())))
    parts = [
        function({name: values[start : start + _EVALUATED] for name, values in inputs.items()})
        for start in range(0, count, _EVALUATED)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _on_device(values: NDArray[np.float32], device: torch.device) -> Tensor:
    """Copy to the device, images with channels last: depthwise convolutions learn 2 to 5 times as fast so on a CPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _operands(node: gs.Node) -> list[gs.Constant]:
    """Constants of several axes that an element-wise operator reads. Their values may differ between positions."""
    weighted = node.op in {"Conv", "BatchNormalization"}
    return [t for t in node.inputs if isinstance(t, gs.Constant) and len(t.shape) > 1 and not weighted]
