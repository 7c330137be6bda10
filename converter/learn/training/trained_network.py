"""A quantized model as one torch module that is trained as a whole and written back."""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from converter.calibration.correction import float_network
from converter.learn.graph.program import After, Program, unsupported, untouched
from converter.learn.graph.spatial import NoTorchForm
from converter.learn.quantized_weight import constants, write_all
from converter.learn.training.lsq import StepGrid, StepWeight
from passes.activations.activation_ranges import placement_of
from passes.errors import QuantizationError
from passes.ir.model import Model
from passes.ir.ties import tied_layers
from passes.numerics.grid import ActivationGrid

__all__ = ["TrainedNetwork", "float_program"]

Tensors = dict[str, Tensor]


class TrainedNetwork(nn.Module):
    """The network with quantizers exactly where the writer puts them. `teacher` is the float network.

    Args:
        model: Quantized by a layer pass.
        sample: Some inputs by name, to measure the standard deviation of each layer's output.
        learn_activations: Whether the scales of activations are parameters too.

    Raises:
        QuantizationError: An operator has no differentiable form. The message names it.
    """

    def __init__(self, model: Model, sample: Mapping[str, Tensor], *, learn_activations: bool) -> None:
        super().__init__()
        self.model = model
        self.ties = tied_layers(layer for name, layer in model.layers().items() if name in model.quantized)
        for name in self.ties:
            model.untie_bias(name)
        self.program, spread = float_program(float_network(model), sample)
        self.inputs = [str(tensor.name) for tensor in model.graph.inputs]
        self.starts, self.grid_index = _distinct_grids(model)
        bounds, fixed = _limits(model)
        self.grids = nn.ModuleList(
            StepGrid(grid, learned=learn_activations and grid not in fixed, bound=bounds.get(grid, math.inf))
            for grid in self.starts
        )
        self.layers = {name: layer for name, layer in model.layers().items() if name in model.quantized}
        weights = []
        for name, layer in self.layers.items():
            quantized = model.quantized[name]
            int32_bias = model.rules.bias == "int32" and model.reads_integers(layer)
            grid = self._grid(layer.input) if int32_bias else None
            unit = spread[layer.output]
            kept = None if quantized.pruned is None else quantized.pruned.kept
            weights.append(StepWeight(layer, quantized.codes, quantized.grid, model.bias(layer), unit, grid, kept))
        of = dict(zip(self.layers, weights, strict=True))
        for name, names in self.ties.items():
            if name != names[0]:
                of[name].share(of[names[0]])
        self.weights = nn.ModuleList(weights)

    def forward(self, inputs: Mapping[str, Tensor], seen: After = untouched) -> Tensors:
        """The graph's outputs by name, computed as the file computes them. ``seen`` is called with every tensor."""
        fed = {name: self._quantize(name, value) for name, value in inputs.items()}
        weights = constants(self.step_weights())
        return self.program(fed, weights, lambda name, value: seen(name, self._quantize(name, value)))

    @torch.no_grad()
    def teacher(self, inputs: Mapping[str, Tensor], seen: After = untouched) -> Tensors:
        """The float network's outputs by name. ``seen`` is called with every tensor."""
        return self.program(inputs, after=seen)

    def step_weights(self) -> list[StepWeight]:
        """The weights, in the order of `layers`."""
        return cast("list[StepWeight]", list(self.weights))

    def confine(self) -> None:
        """Bring step sizes that left their bounds back to them."""
        for module in (*self.grids, *self.weights):
            cast("StepGrid | StepWeight", module).confine()

    def facts(self) -> list[object]:
        """The initial values of the training besides parameters and constants, ready for JSON."""
        grids = [[str(grid), cast(StepGrid, step).most] for grid, step in zip(self.starts, self.grids, strict=True)]
        scales = {name: self.model.quantized[name].grid.bits for name in self.layers}
        return [grids, self.grid_index, scales, self.model.rules.bias]

    def on(self, device: torch.device) -> "TrainedNetwork":
        """Move the network and its constants to a device."""
        self.program.constants = {name: value.to(device) for name, value in self.program.constants.items()}
        return self.to(device)

    def write(self) -> int:
        """Write the present weights, biases and grids into the model.

        Returns:
            How many codes differ from the model's previous ones.
        """
        changed = 0
        of = dict(zip(self.layers, self.step_weights(), strict=True))
        for names in dict.fromkeys(self.ties.get(name, (name,)) for name in self.layers):
            changed += write_all([of[name] for name in names], self.model)
        for name in self.model.activation_qparams:
            self.model.activation_qparams[name] = self._step_grid(self.grid_index[name]).solution()
        return changed

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        index = self.grid_index.get(name)
        return value if index is None else self._step_grid(index)(value)

    def _grid(self, tensor: str) -> StepGrid | None:
        index = self.grid_index.get(tensor)
        return None if index is None else self._step_grid(index)

    def _step_grid(self, index: int) -> StepGrid:
        return cast(StepGrid, self.grids[index])


@torch.no_grad()
def float_program(model: Model, sample: Mapping[str, Tensor]) -> tuple[Program, dict[str, float]]:
    """A float network as a torch program, and the standard deviations of its tensors on a sample, by name.

    Raises:
        QuantizationError: An operator has no differentiable form, or torch cannot run the network. The message names
            the operator or quotes torch.
    """
    reason = unsupported(list(model.graph.nodes))
    if reason:
        raise _cannot_be_trained(reason)
    program, spread = Program(model.graph), dict[str, float]()
    try:
        program(sample, after=lambda name, value: _measured(spread, name, value))
    except NoTorchForm as error:
        raise _cannot_be_trained(f"{error} has no differentiable form") from error
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:  # the shapes hold for one batch size only
        raise _cannot_be_trained(f"torch cannot run it on these images ({str(error).splitlines()[0]})") from error
    return program, spread


def _cannot_be_trained(reason: str) -> QuantizationError:
    return QuantizationError(f"{reason}, so the network cannot be trained; train the part before it")


def _measured(spread: dict[str, float], name: str, value: Tensor) -> Tensor:
    spread[name] = float(value.std(unbiased=False)) if value.is_floating_point() else 0.0
    return value


def _distinct_grids(model: Model) -> tuple[list[ActivationGrid], dict[str, int]]:
    """The distinct grids, and the index of each tensor's grid. Tensors with equal grids share one from then on."""
    starts = list(dict.fromkeys(model.activation_qparams.values()))
    return starts, {name: starts.index(grid) for name, grid in model.activation_qparams.items()}


def _limits(model: Model) -> tuple[dict[ActivationGrid, float], set[ActivationGrid]]:
    """Constraints on the training of activation grids.

    Returns:
        For each grid whose quantizer replaces a clamp, the largest value that the clamp lets through. Then the grids
        that must not change: those tied to another grid by a constant factor, so that a product between them is free.
    """
    placement = placement_of(model)
    bounds: dict[ActivationGrid, float] = {}
    for tensor, (_, most) in placement.bounds.items():
        if tensor in model.activation_qparams:
            grid = model.activation_qparams[tensor]
            bounds[grid] = min(most, bounds.get(grid, math.inf))
    tied = {name for tensor in placement.factors for name in (tensor, placement.tensors[tensor])}
    return bounds, {model.activation_qparams[name] for name in tied}
