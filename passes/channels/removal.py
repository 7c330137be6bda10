"""Which channels of a group go, and what the layers that read them become, from the moments of their inputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.channels.channel_groups import ChannelGroup, input_channels_of
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.awq import output_power
from passes.numerics.channel_removal import Reader, removal_order, values_without
from passes.numerics.gptq import damped, output_error
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.scale_migration.scale_ties import Indices

__all__ = ["GroupReaders", "ReaderError", "removed_inputs"]

_STEPS = 64  # channels of large groups go several at once, in about so many steps
_RAISED = 10.0  # factor on the damping if a Hessian is not positive definite
_MOST_DAMPING = 1.0


@dataclass(frozen=True)
class ReaderError:
    """Error of a layer's output, as a share of its power.

    Attributes:
        zeroed: If the weights of removed channels just become zero.
        left: With the values that the layer gets.
    """

    zeroed: float
    left: float


def removed_inputs(layer: Linear, group: ChannelGroup, chosen: Indices) -> NDArray[np.bool_]:
    """Return which inputs ``[g, k]`` of a layer that reads a group belong to the chosen channels."""
    gone = np.isin(group.consumers[layer.name], chosen)
    return np.asarray(input_channels_of(layer, gone), np.bool_)


class GroupReaders:
    """The layers that read a group, with the moments of their inputs.

    Args:
        model: The model. Its weights are those before any removal.
        group: The group.
        moments: Moments of the readers' inputs, by layer name.
        damping: λ as a share of the mean of diag H. It is raised if a Hessian is not positive definite.

    Raises:
        QuantizationError: A reader has no moments, or no damping makes its Hessian positive definite.
    """

    def __init__(self, model: Model, group: ChannelGroup, moments: Mapping[str, Moments], damping: float) -> None:
        layers = model.layers()
        self.model, self.group = model, group
        self.layers = [layers[name] for name in group.readers]
        for layer in self.layers:
            if layer.name not in moments:
                raise QuantizationError(f"{layer.name}: prune_channels needs calibration data; use `calibration=`")
        # A bias takes up the mean of what is lost. MatMul has none.
        about = [moments[each.name] if each.op != "MatMul" else moments[each.name].about(None) for each in self.layers]
        self.moments = [
            each.centered() if layer.op != "MatMul" else each for each, layer in zip(about, self.layers, strict=True)
        ]
        self.weights = [model.weight(layer) for layer in self.layers]
        self.biases = [model.bias(layer) for layer in self.layers]
        self.hessians = [
            _definite(layer, each.hessian, damping) for layer, each in zip(self.layers, self.moments, strict=True)
        ]

    def order(self, count: int, fewest: int) -> Indices:
        """Return at most ``count`` channels in the order in which they go.

        Args:
            count: Number of channels that are to go.
            fewest: Least number of channels of every tensor. Fewer channels go where tensors of the group are narrower
                than the group, such as the inputs of a Concat.
        """
        readers = [
            Reader(weight, hessian, self._channels(layer), 1 / (output_power(weight, each.hessian) or 1.0))
            for layer, weight, hessian, each in zip(self.layers, self.weights, self.hessians, self.moments, strict=True)
        ]
        size, together = self.group.size, max(1, self.group.size // _STEPS)
        for most in (count, size):  # others may go in place of those that have to stay
            order, _ = removal_order(readers, size, most, together=together)
            found = self.group.removable(order, fewest)[:count]
            if len(found) == count:
                break
        return found

    def write(self, chosen: Indices, *, make_up: bool = True) -> dict[str, ReaderError]:
        """Give the readers weights that are zero for the chosen channels. Return their errors, by layer name.

        Args:
            chosen: Channels that go.
            make_up: Whether the other weights and the bias make up for them.
        """
        errors = {}
        for layer, weight, bias, hessian, moments in zip(
            self.layers, self.weights, self.biases, self.hessians, self.moments, strict=True
        ):
            removed = removed_inputs(layer, self.group, chosen)
            zeroed = np.where(removed[:, None], np.float32(0), weight)
            values = values_without(weight, hessian, removed) if make_up else zeroed
            shifted = bias
            if make_up and layer.op != "MatMul":
                lost = np.einsum("gok,gk->go", weight - values, moments.mean).astype(np.float32)
                shifted = lost if bias is None else bias + lost
            self.model.write(layer, values, shifted)
            errors[layer.name] = ReaderError(
                output_error(weight, zeroed, moments.hessian), output_error(weight, values, moments.hessian)
            )
        return errors

    def restore(self) -> None:
        """Give the readers the weights and biases that they had."""
        for layer, weight, bias in zip(self.layers, self.weights, self.biases, strict=True):
            self.model.write(layer, weight, bias)
            inputs = self.model.node(layer.name).inputs
            if layer.bias is None and len(inputs) > 2:  # a bias that the solution added
                inputs.pop()

    def _channels(self, layer: Linear) -> Indices:
        return np.asarray(input_channels_of(layer, self.group.consumers[layer.name]), np.intp)


def _definite(layer: Linear, hessian: Floats, damping: float) -> Floats:
    """Return the damped Hessian ``[g, k, k]``.

    Raises:
        QuantizationError: It is not positive definite with any damping up to 1.
    """
    while damping <= _MOST_DAMPING:
        found = damped(hessian, damping)
        try:
            np.linalg.cholesky(found)
        except np.linalg.LinAlgError:
            damping *= _RAISED
        else:
            return found
    raise QuantizationError(
        f"{layer.name}: the Hessian of its inputs cannot be factorised; use more calibration images"
    )
