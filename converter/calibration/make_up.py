"""Layers make up for removed channels and for the errors of the layers before them, one after the other.

Two networks run side by side (`converter.calibration.sequential`): the one before any channel was removed, and the one
with removed channels, whose shapes are still those of the first. The weights of a layer that are left become those with
the least error to the output of the first network, given the inputs of the second (`passes.numerics.channel_removal`,
`passes.numerics.asymmetric_target`). A channel pruning that fits one layer after the other is that of He, Zhang & Sun
2017 (arXiv 1707.06168, §3.3). Here a layer at the end of a residual block also makes up for the error of the shortcut.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.layer_inputs import SequentialCalibration
from converter.data.dataset import Dataset
from converter.runtime.session import Progress
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.ties import tied_layers
from passes.numerics.asymmetric_target import asymmetric_target
from passes.numerics.channel_removal import without_inputs
from passes.numerics.moments import Moments

__all__ = ["make_up"]


def make_up(
    model: Model,
    reference: Model,
    removed: Mapping[str, NDArray[np.bool_]],
    data: Dataset,
    progress: Progress,
    *,
    memory_budget: int,
    seed: int,
) -> tuple[str, ...]:
    """Give every layer weights that make up for removed inputs and for the errors of the layers before it.

    Args:
        model: Changed in place. Its weights are zero for removed inputs.
        reference: The network before the removal. It has the same nodes and shapes.
        removed: Inputs that are removed ``[g, k]``, by layer name.
        data: Calibration data.
        progress: Called after every layer.
        memory_budget: Bytes of activations in memory.
        seed: Random seed of the output positions that are sampled from each image.

    Returns:
        Notes on layers that could not make up for the errors before them.

    Raises:
        DataError: An activation is NaN or Inf. The message names the tensor.
    """
    layers = model.layers()
    ties = tied_layers(layers.values())
    notes = []
    with ActivationCache(memory_budget // 2) as cache:
        calibration = SequentialCalibration(
            model, reference, layers, data, cache, seed=seed, together=memory_budget // 2
        )
        for done, layer in enumerate(calibration.solving_order(), start=1):
            moments = None if layer.name in ties else calibration.find_moments(layer)
            if moments is not None:
                gone = removed.get(layer.name)
                groups, _, k = layer.matrix_shape
                gone = np.zeros((groups, k), np.bool_) if gone is None else gone
                try:
                    _solve(model, reference, layer, moments, gone)
                except np.linalg.LinAlgError as error:
                    notes.append(f"{layer.name} does not make up for errors before it: Hessian {error}")
            progress("making up for channels", done, len(layers))
    return tuple(notes)


def _solve(model: Model, reference: Model, layer: Linear, moments: Moments, gone: NDArray[np.bool_]) -> None:
    """Write the weights of least error to the float output into a layer.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not positive definite with any damping.
    """
    weight, bias = reference.weight(layer), reference.bias(layer)
    corrects = layer.op != "MatMul"  # MatMul has no bias
    varying = moments.centered() if corrects else moments.about(None)
    if gone.all(axis=1).any() or not (gone.any() or _differs(varying)):
        return
    smaller, left = without_inputs(weight, varying, gone)
    values = np.zeros_like(weight)
    values[np.broadcast_to(~gone[:, None], weight.shape)] = asymmetric_target(smaller, left).ravel()
    shifted = bias
    if corrects:
        lost = np.einsum("gok,gk->go", weight, moments.mean) - np.einsum("gok,gk->go", values, moments.mean_quantized)
        if moments.mean_residual is not None:
            lost = lost + moments.mean_residual
        shifted = lost.astype(np.float32) if bias is None else bias + lost.astype(np.float32)
    model.write(layer, values, shifted)


def _differs(moments: Moments) -> bool:
    """Whether the two networks have different inputs, or a different tensor is added to the layer's output."""
    return any(each is not None and bool(each.any()) for each in (moments.cross, moments.residual))
