"""Rescale the activations inside a group of layers. The function of the network stays the same.

Every tied channel c of the group has a factor ``f_c > 0`` (Nagel et al. 2019, arXiv:1906.04721, equations 5-7):

    producers   W_c f_c, b_c f_c          rows of the weight: the activations they write are multiplied
    consumers   W_c / f_c                 columns of the weight: the activations they read are multiplied
    BatchNormalization   before: gamma f, beta f      after: gamma / f, mean f
    LayerNormalization   before: gamma f, beta f
    added constants      c f

Products are computed in float64 and rounded to float32 once.
"""

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.ir.linear import Linear, find_linear
from passes.ir.model import Model
from passes.ir.surgery import set_constant
from passes.numerics.grid import Floats
from passes.scale_migration.scale_groups import ScaleGroup, input_channels
from passes.scale_migration.scale_ties import Indices

__all__ = ["factors_of", "input_factors", "rescale"]

Doubles = NDArray[np.float64]


def factors_of(indices: Indices, factors: Doubles) -> Doubles:
    """Return the factor ``[c]`` of every channel, given the group's ``factors`` ``[size]``. Fixed channels have 1."""
    return np.append(factors, 1.0)[indices]


def input_factors(layer: Linear, channels: Doubles) -> Doubles:
    """Return factors of a layer's rows ``[g, k]``, given those of its input channels ``[g i]``.

    All kernel taps of a channel have the same factor.
    """
    groups, _, k = layer.matrix_shape
    return np.repeat(channels.reshape(groups, -1), k * groups // input_channels(layer), axis=1)


def rescale(model: Model, group: ScaleGroup, factors: Doubles) -> None:
    """Multiply the group's activations by ``factors`` ``[size]``. The outputs of the model stay the same.

    Raises:
        ValueError: A factor is not finite and positive, or the number of factors is not the group's size.
    """
    if factors.shape != (group.size,) or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ValueError(f"a group of {group.size} scales needs as many finite, positive factors, not {factors}")
    for name in {**group.producers, **group.consumers}:
        _rescale_layer(model, find_linear(model.node(name)), group, factors)
    for name, indices in group.norms_after.items():
        own = factors_of(indices, factors)
        _multiply(model, model.node(name), {1: 1 / own, 3: own})
    for name, indices in group.norms_before.items():
        own, node = factors_of(indices, factors), model.node(name)
        _multiply(model, node, {index: own for index in (1, 2) if index < len(node.inputs) and node.inputs[index].name})
    for shift in group.shifts:
        own = factors_of(shift.ids, factors).reshape(-1, *[1] * (-shift.from_right - 1))
        _multiply(model, model.node(shift.node), {shift.index: own})


def _rescale_layer(model: Model, layer: Linear, group: ScaleGroup, factors: Doubles) -> None:
    weight = model.weight(layer).astype(np.float64)  # [g, o, k]
    bias = model.bias(layer)
    if layer.name in group.consumers:
        weight /= input_factors(layer, factors_of(group.consumers[layer.name], factors))[:, None, :]
    if layer.name in group.producers:
        rows = factors_of(group.producers[layer.name], factors).reshape(weight.shape[:2])  # [g, o]
        weight *= rows[:, :, None]
        bias = None if bias is None else (bias * rows).astype(np.float32)
    model.write(layer, _single(weight), bias)


def _multiply(model: Model, node: gs.Node, factors: dict[int, Doubles]) -> None:
    """Multiply constants of a node by factors, given by index of the input. Factors of 1 change nothing."""
    for index, own in factors.items():
        if (own != 1).any():
            tensor = node.inputs[index]
            set_constant(model.graph, node, index, _single(tensor.values * own), f"{tensor.name}.rescaled")


def _single(values: Doubles) -> Floats:
    return np.ascontiguousarray(values, np.float32)
