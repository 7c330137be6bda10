"""Smallest scales of the weights of layers that run on integers."""

from collections.abc import Iterable
from functools import reduce

import numpy as np

from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.grid import Codes, Floats, Grid
from passes.numerics.pair_sums import largest_sums, limited

__all__ = ["BIAS_HEADROOM", "largest", "min_scale_for_bias", "min_scale_of", "within_pair_sum"]

BIAS_HEADROOM = 2.0**29  # int32 biases use at most a quarter of their range, so that a later correction fits too
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def min_scale_of(model: Model, layer: Linear, bias: Floats | None) -> Floats | None:
    """The smallest weight scales ``[g, o]`` of a layer on integers. None if any scale will do.

    - An int32 bias keeps its headroom: see `min_scale_for_bias`.
    - Sums of two neighbouring codes stay within `Rules.pair_sum`.
    """
    return largest([min_scale_for_bias(model, layer, bias), _min_scale_for_pairs(model, layer)])


def largest(scales: Iterable[Floats | None]) -> Floats | None:
    """Return the larger of scales ``[g, o]``, one by one. None is no demand."""
    needed = [scale for scale in scales if scale is not None]
    return reduce(np.maximum, needed) if needed else None


def _min_scale_for_pairs(model: Model, layer: Linear) -> Floats | None:
    """The smallest scales at which sums of neighbouring codes stay within `Rules.pair_sum`.

    Rounding moves each of two codes by half a step, so their sum may grow by 1.
    """
    if model.rules.pair_sum is None or not model.reads_integers(layer):
        return None
    return np.asarray(largest_sums(model.weight(layer), layer.kernel) / (model.rules.pair_sum - 1), np.float32)


def within_pair_sum(model: Model, layer: Linear, codes: Codes, grid: Grid) -> Codes:
    """Return codes of which no two neighbours saturate the target's kernels.

    Scales of `min_scale_of` leave little to do: a pass that moves codes, such as GPTQ, may exceed the limit by one or
    two. Codes of blocks are never so large.
    """
    most = model.rules.pair_sum
    if most is None or grid.multiples is not None or not model.reads_integers(layer):
        return codes
    return limited(codes, layer.kernel, most)


def min_scale_for_bias(model: Model, layer: Linear, bias: Floats | None) -> Floats | None:
    """The smallest weight scales ``[g, o]`` at which an int32 bias keeps its headroom. None if the bias is a float.

    The bias's scale is the product of the weight's and the activation's scale. float32 must be able to hold that
    product, so there is a smallest weight scale without a bias too.
    """
    if model.rules.bias != "int32" or not model.reads_integers(layer):
        return None
    groups, outputs, _ = layer.matrix_shape
    size = np.zeros((groups, outputs)) if bias is None else np.abs(bias.astype(np.float64))
    min_scale = np.maximum(size / BIAS_HEADROOM, _SMALLEST_SCALE) / float(model.activation_qparams[layer.input].scale)
    return np.asarray(min_scale, np.float32)
