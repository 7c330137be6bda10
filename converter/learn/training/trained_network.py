"""A quantized model as one torch module that is trained whole, and back."""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from converter.calibration.correction import exact_model
from converter.learn.graph.program import After, Program, unsupported, untouched
from converter.learn.graph.spatial import NoTorchForm
from converter.learn.quantized_weight import constants
from converter.learn.training.lsq import StepGrid, StepWeight
from passes.activations.activation_ranges import placement_of
from passes.errors import QuantizationError
from passes.ir.model import Model
from passes.numerics.grid import ActivationGrid

__all__ = ["TrainedNetwork", "float_program"]

Tensors = dict[str, Tensor]


class TrainedNetwork(nn.Module):
    """The network with its quantization in place, exactly where the writers put it; `teacher` is the float network.

    Args:
        model: quantized by a layer pass.
        sample: some inputs by name, to see how far layers' outputs spread.
        learn_activations: the scales of activations are parameters too.

    Raises:
        QuantizationError: an operator has no differentiable form; names it.
    """

    def __init__(self, model: Model, sample: Mapping[str, Tensor], *, learn_activations: bool) -> None:
        super().__init__()
        self.model = model
        self.program, spread = float_program(exact_model(model), sample)
        self.inputs = [str(tensor.name) for tensor in model.graph.inputs]
        self.starts, self.place = _shared(model)
        bounds, fixed = _limits(model)
        self.grids = nn.ModuleList(
            StepGrid(grid, learned=learn_activations and grid not in fixed, bound=bounds.get(grid, math.inf))
            for grid in self.starts
        )
        self.layers = {name: layer for name, layer in model.layers().items() if name in model.quantized}
        weights = []
        for name, layer in self.layers.items():
            held = model.quantized[name]
            whole = model.rules.bias == "int32" and model.reads_integers(layer)
            grid = self._grid(layer.input) if whole else None
            unit = spread[layer.output]
            weights.append(StepWeight(layer, held.codes, held.grid, model.bias(layer), unit, grid))
        self.weights = nn.ModuleList(weights)

    def forward(self, inputs: Mapping[str, Tensor], seen: After = untouched) -> Tensors:
        """The graph's outputs by name, as the file computes them; ``seen`` sees every tensor on its way."""
        fed = {name: self._quantize(name, value) for name, value in inputs.items()}
        weights = constants(self.step_weights())
        return self.program(fed, weights, lambda name, value: seen(name, self._quantize(name, value)))

    @torch.no_grad()
    def teacher(self, inputs: Mapping[str, Tensor], seen: After = untouched) -> Tensors:
        """The float network's outputs by name."""
        return self.program(inputs, after=seen)

    def step_weights(self) -> list[StepWeight]:
        """In the order of `layers`."""
        return cast("list[StepWeight]", list(self.weights))

    def confine(self) -> None:
        """Put step sizes that left their bounds back onto them."""
        for module in (*self.grids, *self.weights):
            cast("StepGrid | StepWeight", module).confine()

    def facts(self) -> list[object]:
        """What training starts from, besides parameters and constants, ready for JSON."""
        grids = [[str(grid), cast(StepGrid, step).most] for grid, step in zip(self.starts, self.grids, strict=True)]
        scales = {name: self.model.quantized[name].grid.bits for name in self.layers}
        return [grids, self.place, scales, self.model.rules.bias]

    def on(self, device: torch.device) -> "TrainedNetwork":
        """The network, its constants with it, on a device."""
        self.program.constants = {name: value.to(device) for name, value in self.program.constants.items()}
        return self.to(device)

    def write(self) -> int:
        """Put weights, biases and grids as they are now into the model; how many codes are others than before."""
        moved = sum(weight.write(self.model) for weight in self.step_weights())
        for name in self.model.activation_qparams:
            self.model.activation_qparams[name] = self._step_grid(self.place[name]).solution()
        return moved

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        place = self.place.get(name)
        return value if place is None else self._step_grid(place)(value)

    def _grid(self, tensor: str) -> StepGrid | None:
        place = self.place.get(tensor)
        return None if place is None else self._step_grid(place)

    def _step_grid(self, place: int) -> StepGrid:
        return cast(StepGrid, self.grids[place])


@torch.no_grad()
def float_program(model: Model, sample: Mapping[str, Tensor]) -> tuple[Program, dict[str, float]]:
    """A float network in torch, and the standard deviations of its tensors on a sample, by name.

    Raises:
        QuantizationError: an operator has no differentiable form, or torch cannot run the network; names it.
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
    except (RuntimeError, TypeError, ValueError) as error:  # shapes that hold for one size of batch
        raise _cannot_be_trained(f"torch cannot run it on these images ({str(error).splitlines()[0]})") from error
    return program, spread


def _cannot_be_trained(reason: str) -> QuantizationError:
    return QuantizationError(f"{reason}, so the network cannot be trained; train the part before it")


def _measured(spread: dict[str, float], name: str, value: Tensor) -> Tensor:
    spread[name] = float(value.std(unbiased=False)) if value.is_floating_point() else 0.0
    return value


def _shared(model: Model) -> tuple[list[ActivationGrid], dict[str, int]]:
    """Different grids, and which one each tensor has: tensors with equal ones keep them equal."""
    starts = list(dict.fromkeys(model.activation_qparams.values()))
    return starts, {name: starts.index(grid) for name, grid in model.activation_qparams.items()}


def _limits(model: Model) -> tuple[dict[ActivationGrid, float], set[ActivationGrid]]:
    """The largest value a clamp that its quantizer stands for lets through, and the grids that stay as they are.

    These are grids one of which is a multiple of the other, so that a product between them costs nothing.
    """
    placement = placement_of(model)
    bounds: dict[ActivationGrid, float] = {}
    for tensor, (_, most) in placement.bounds.items():
        if tensor in model.activation_qparams:
            grid = model.activation_qparams[tensor]
            bounds[grid] = min(most, bounds.get(grid, math.inf))
    tied = {name for tensor in placement.factors for name in (tensor, placement.tensors[tensor])}
    return bounds, {model.activation_qparams[name] for name in tied}
