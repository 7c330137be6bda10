"""Rotation: mix the channels of linear activations so that the weights on both sides have smaller rounding errors.

Inverted bottlenecks end in a layer without an activation function. Their channels can be mixed by any orthogonal matrix
R, exactly and at no cost: the weights of the layers before become ``R W``, and those of the layers behind ``W Rᵀ``
(QuaRot, Ashkboos et al. 2024, arXiv 2404.00456). `passes.rotation.rotation_groups` finds such channels. R is chosen to
flatten the rows of all these weights (`passes.numerics.rotation`). No data is needed.

The residual stream of a transformer is such channels too, if its normalizations stand before the layers. They commute
with R once their scale and shift have moved into the layers (`passes.rotation.normalized_streams`). A recipe has to ask
for it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from passes.base import GraphPass
from passes.ir.model import Model
from passes.ir.surgery import set_constant
from passes.numerics.rotation import Rotated, flatness, flattening_rotation
from passes.report import Change, PassReport
from passes.rotation.normalized_streams import clear_normalizations, move_shifts, scales
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
        through_normalization: Whether LayerNormalization and RMSNormalization may lie between rotated channels.

    Raises:
        ValueError: ``steps`` or ``seed`` is negative.
    """

    name: ClassVar[str] = "rotate"

    steps: int = 40
    seed: int = 0
    through_normalization: bool = False

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
        analysis = rotation_groups(model, through_normalization=self.through_normalization)
        changed: dict[str, Change] = {}
        skipped = dict(analysis.reasons)
        biases: dict[str, str] = {}
        for index, group in enumerate(analysis.groups):
            before = flatness(_weights(model, group, {}))
            weights = _weights(model, group, scales(model, group))
            rotation = flattening_rotation(
                weights, group.size, steps=self.steps, seed=self.seed + index, keeps_mean=group.keeps_mean
            )
            after = flatness(weights, rotation.astype(np.float32))
            if after > before * (1 - _GAIN):
                skipped.update(dict.fromkeys(group.consumers, "no rotation flattens the weights around its input"))
                continue
            biases |= move_shifts(model, group)
            _rotate(model, group, rotation, biases)
            clear_normalizations(model, group)
            gain = 10 * np.log10(before / after)
            what = f"inputs rotated, squared peaks of the weights around them {gain:.1f} dB lower"
            changed.update(dict.fromkeys(group.consumers, Change(what)))
        return PassReport(self.name, changed, {name: why for name, why in skipped.items() if name not in changed})


def _weights(model: Model, group: RotationGroup, gains: dict[str, Doubles]) -> list[Rotated]:
    """Return the group's weights as matrices.

    The rotated axis n is the outputs ``[n, k]`` of producers, and the inputs ``[o x taps, n]`` of consumers.

    Args:
        model: The model.
        group: The group.
        gains: Factors of the inputs of consumers ``[n]``, by layer name.
    """
    layers = model.layers()
    written = [Rotated(model.weight(layers[name])[0], True) for name in group.producers]
    read = []
    for name in group.consumers:
        weight = model.weight(layers[name])[0]
        taps = np.ascontiguousarray(weight.reshape(len(weight), group.size, -1).swapaxes(1, 2)).reshape(-1, group.size)
        read.append(Rotated((taps * gains[name]).astype(np.float32) if name in gains else taps, False))
    return [*written, *read]


def _rotate(model: Model, group: RotationGroup, rotation: Doubles, biases: dict[str, str]) -> None:
    """Rotate all weights and constants of a group. ``biases`` are Adds behind layers, which are in no group."""
    layers, gains = model.layers(), scales(model, group)
    for name in group.consumers:
        weight = model.weight(layers[name]).astype(np.float64)
        taps = weight.reshape(1, weight.shape[1], group.size, -1)
        rows = rotation * gains[name] if name in gains else rotation
        rotated = np.einsum("goit,ji->gojt", taps, rows, optimize=True).reshape(weight.shape)
        model.write(layers[name], rotated.astype(np.float32), None)
    for name in group.producers:
        weight, bias = model.weight(layers[name]).astype(np.float64), model.bias(layers[name])
        rotated = (rotation @ weight[0])[None].astype(np.float32)
        rotated_bias = None if bias is None else (bias.astype(np.float64) @ rotation.T).astype(np.float32)
        model.write(layers[name], rotated, rotated_bias)
    for name, index in [*group.constants, *((biases[name], 1) for name in group.producers if name in biases)]:
        node = model.node(name)
        constant = node.inputs[index]
        values = (constant.values.astype(np.float64) @ rotation.T).astype(np.float32)
        set_constant(model.graph, node, index, values, f"{constant.name}.rotated")
