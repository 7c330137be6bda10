"""Parts of detectors: a backbone with three scales, layers and shape operators with readable names, anchor points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.net import Net

__all__ = [
    "CELLS",
    "CLASSES",
    "IMAGE",
    "SIDES",
    "STRIDES",
    "Detector",
    "HeadNet",
    "Part",
    "anchor_points",
    "strides_of_cells",
]

IMAGE = 64
STRIDES = (8, 16, 32)
SIDES = tuple(IMAGE // stride for stride in STRIDES)
CELLS = sum(side * side for side in SIDES)
CLASSES = 3
_GAINS = {"silu": 1.7, "relu": 1.4, "leaky_relu": 1.4}  # what a layer behind it needs to keep a variance of 1


@dataclass(frozen=True)
class Part:
    """Part of a tensor.

    Attributes:
        tensor: Name of the tensor.
        axis: Axis on which the part lies.
        start: First row of the part.
        stop: End of the part. None: the rest.
    """

    tensor: str
    axis: int = -1
    start: int = 0
    stop: int | None = None

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the part of the tensor's values."""
        stop = values.shape[self.axis] if self.stop is None else self.stop
        return values.take(range(self.start, stop), self.axis)


@dataclass(frozen=True)
class Detector:
    """A detector, and where its boxes and scores are before any is selected.

    Attributes:
        build: Returns the model. Its input `images` is [n or 1, 3, 64, 64].
        boxes: All boxes.
        scores: All scores.
        selects: Whether the number of rows in the outputs depends on the values.
    """

    build: Callable[[], onnx.ModelProto]
    boxes: Part
    scores: Part
    selects: bool = False


def anchor_points() -> NDArray[np.float32]:
    """Return the centres of all cells in units of their stride, [cells, 2]."""
    grids = [np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5 for side in SIDES]
    return np.concatenate(grids).astype(np.float32)


def strides_of_cells() -> NDArray[np.float32]:
    """Return the stride of every cell, [cells, 1]."""
    return np.repeat(np.array(STRIDES, np.float32), [side * side for side in SIDES])[:, None]


class HeadNet(Net):
    """Builder of a detector. The methods return the name of the tensor, which is the name of the node too."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.channels = {"images": 3}

    def layer(
        self, name: str, x: str, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1, shared: str = ""
    ) -> str:
        """Add a convolution. `shared` is the layer whose weights it uses."""
        inputs, own = self.channels[x], shared or name
        if f"{own}.weight" not in self.constants:
            self.weight(f"{own}.weight", outputs, inputs // group, kernel, kernel)
            self.constants[f"{own}.weight"] *= np.float32(_GAINS.get(x.rpartition(".")[2], 1))
            self.constant(f"{own}.bias", (0.1 * self.rng.standard_normal(outputs)).astype(np.float32))
        self.channels[name] = outputs
        weights = f"{own}.weight", f"{own}.bias"
        return self.node(
            "Conv", x, *weights, name=name, strides=[stride] * 2, group=group, pads=[(kernel - 1) // 2] * 4
        )

    def prior(self, layer: str, classes: slice, bias: float) -> None:
        """Lower the bias of a layer's classes, as training on mostly empty cells does."""
        self.constants[f"{layer}.bias"][classes] += np.float32(bias)

    def silu(self, x: str) -> str:
        """Add a SiLU."""
        return self._keep(x, self.node("Mul", x, self.node("Sigmoid", x, name=f"{x}.sigmoid"), name=f"{x}.silu"))

    def relu(self, x: str) -> str:
        """Add a Relu."""
        return self._keep(x, self.node("Relu", x, name=f"{x}.relu"))

    def leaky(self, x: str) -> str:
        """Add a LeakyRelu."""
        return self._keep(x, self.node("LeakyRelu", x, name=f"{x}.leaky_relu", alpha=0.1))

    def pyramid(self, activation: Callable[[str], str]) -> list[str]:
        """Add a backbone, and return its three scales with 16 channels each."""
        x = activation(self.layer("backbone.stem", "images", 8, 3, 2))
        x = activation(self.layer("backbone.stage1", x, 16, 3, 2))
        scales = []
        for level in (3, 4, 5):
            x = activation(self.layer(f"backbone.p{level}", x, 16, 3, 2))
            scales.append(x)
        return scales

    def scalar(self, name: str, value: float) -> str:
        """Add a float constant without axes."""
        return self.constant(name, np.float32(value))

    def ints(self, name: str, *values: int) -> str:
        """Add a list of integers."""
        return self.constant(name, np.array(values, np.int64))

    def reshape(self, name: str, x: str, *shape: int) -> str:
        """Add a Reshape."""
        return self.node("Reshape", x, self.ints(f"{name}.shape", *shape), name=name)

    def transpose(self, name: str, x: str, *perm: int) -> str:
        """Add a Transpose."""
        return self.node("Transpose", x, name=name, perm=list(perm))

    def slice(self, name: str, x: str, start: int, end: int, axis: int) -> str:
        """Add a Slice on one axis."""
        bounds = [self.ints(f"{name}.{key}", value) for key, value in (("start", start), ("end", end), ("axis", axis))]
        return self.node("Slice", x, *bounds, name=name)

    def split(self, name: str, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Add a Split into parts of the given sizes."""
        first = self.node("Split", x, self.ints(f"{name}.sizes", *sizes), name=name, outputs=len(sizes), axis=axis)
        return [first, *(f"{first}_{part}" for part in range(1, len(sizes)))]

    def concat(self, name: str, *parts: str, axis: int) -> str:
        """Add a Concat."""
        return self.node("Concat", *parts, name=name, axis=axis)

    def output(self, name: str, x: str) -> str:
        """Give a tensor the name of an output."""
        return self.node("Identity", x, name=name)

    def detector(self, outputs: Sequence[str], batch: Any = 1) -> onnx.ModelProto:
        """Return the model."""
        return self.model(list(outputs), {"images": (batch, 3, IMAGE, IMAGE)})

    def _keep(self, x: str, y: str) -> str:
        self.channels[y] = self.channels[x]
        return y
