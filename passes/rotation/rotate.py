"""Rotation: mix the channels of linear activations so that the weights on both sides have smaller rounding errors.

Inverted bottlenecks end in a layer without an activation function. Their channels can be mixed by any orthogonal matrix
R, exactly and at no cost: the weights of the layers before become ``R W``, and those of the layers behind ``W Rᵀ``
(QuaRot, Ashkboos et al. 2024, arXiv 2404.00456). `passes.rotation.rotation_groups` finds such channels. R is chosen to
flatten the rows of all these weights (`passes.numerics.rotation`). No data is needed.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from passes.base import GraphPass
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.rotation import Rotated, flatness, flattening_rotation
from passes.report import Change, PassReport
from passes.rotation.rotation_groups import RotationGroup, rotation_groups
from passes.statistics import Stats

__all__ = ["Rotate"]

Doubles = NDArray[np.float64]

_GAIN = 0.05  # smallest relative reduction of the squared peaks for which a rotation is done


@dataclass(frozen=True)
class Rotate(GraphPass):
    """Rotation of linear activations. It runs before `activation_ranges`.

    Attributes:
        steps: Number of steps of the descent from the random rotation.
        seed: Random seed of the rotation.

    Raises:
        ValueError: ``steps`` or ``seed`` is negative.
    """

    name: ClassVar[str] = "rotate"

    steps: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, not {self.steps}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rotate every group that gains from it.

        Raises:
            QuantizationError: `activation_ranges` has already run.
        """
        analysis = rotation_groups(model)
        layers = model.layers()
        changed: dict[str, Change] = {}
        skipped = dict(analysis.reasons)
        for index, group in enumerate(analysis.groups):
            weights = _weights(model, layers, group)
            rotation = flattening_rotation(weights, group.size, steps=self.steps, seed=self.seed + index)
            before, after = (flatness(weights, matrix.astype(np.float32)) for matrix in (np.eye(group.size), rotation))
            if after > before * (1 - _GAIN):
                skipped.update(dict.fromkeys(group.consumers, "no rotation flattens the weights around its input"))
                continue
            _rotate(model, layers, group, rotation)
            gain = 10 * np.log10(before / after)
            what = f"inputs rotated, squared peaks of the weights around them {gain:.1f} dB lower"
            changed.update(dict.fromkeys(group.consumers, Change(what)))
        return PassReport(self.name, changed, {name: why for name, why in skipped.items() if name not in changed})


def _weights(model: Model, layers: dict[str, Linear], group: RotationGroup) -> list[Rotated]:
    """Return the group's weights as matrices.

    The rotated axis n is the outputs ``[n, k]`` of producers, and the inputs ``[o x taps, n]`` of consumers.
    """
    written = [Rotated(model.weight(layers[name])[0], True) for name in group.producers]
    read = []
    for name in group.consumers:
        weight = model.weight(layers[name])[0]
        taps = weight.reshape(len(weight), group.size, -1)
        read.append(Rotated(np.ascontiguousarray(taps.swapaxes(1, 2)).reshape(-1, group.size), False))
    return [*written, *read]


def _rotate(model: Model, layers: dict[str, Linear], group: RotationGroup, rotation: Doubles) -> None:
    for name in group.consumers:
        weight = model.weight(layers[name]).astype(np.float64)
        taps = weight.reshape(1, weight.shape[1], group.size, -1)
        rotated = np.einsum("goit,ji->gojt", taps, rotation, optimize=True).reshape(weight.shape)
        model.write(layers[name], rotated.astype(np.float32), None)
    for name in group.producers:
        weight, bias = model.weight(layers[name]).astype(np.float64), model.bias(layers[name])
        rotated = (rotation @ weight[0])[None].astype(np.float32)
        rotated_bias = None if bias is None else (bias.astype(np.float64) @ rotation.T).astype(np.float32)
        model.write(layers[name], rotated, rotated_bias)
