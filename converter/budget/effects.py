"""Effects of the layers: each layer is quantized alone at several numbers of bits, and the error is measured.

The recipe's own layer pass solves a layer on the float network's inputs, which gives the error of the layer's own
output. Then only this solution is put into the float network, which gives the error of the network's output on held-out
images. The ratio of the two is the layer's importance. It is measured, not approximated from gradients, so it needs
neither labels nor torch.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.cache.folder import NOWHERE, Cache
from converter.cache.steps import NO_CACHE, StepCache
from converter.calibration.activation_cache import ActivationCache
from converter.calibration.layer_inputs import SequentialCalibration
from converter.calibration.min_scale import min_scale_of
from converter.calibration.probe import Probe
from converter.calibration.solving import block_of, corrected_biases
from converter.data.dataset import Dataset
from converter.pipeline.images import Images
from converter.pipeline.run_pass import PassContext, run_pass
from converter.pipeline.search_record import LayerEffect
from converter.qdq.layer_forms import bits_in_file
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress, no_progress
from converter.targets.target import Target
from passes.base import LayerPass, Problem
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.ir.ties import tied_layers
from passes.numerics.error import decibel
from passes.numerics.moments import Moments
from passes.numerics.noise_table import importance

__all__ = ["BITS", "Effects", "PreparedLayers", "Row", "measure_effects", "measure_some", "prepare_layers"]

BITS = (2, 3, 4, 8)  # choices of a layer
_TRIED = (3, 4)  # bits tried in the network; at 2 bits errors are too large for a linear approximation
_PROBED = 64  # held-out samples that measure the network's error
_LEAST_ERROR = 1e-12  # relative power; a smaller error counts as this
_NODES, _BLOCK_NODES = 700, 500  # bytes of nodes: those that join 3-bit codes, those that scale blocks

Doubles = NDArray[np.float64]
Row = dict[str, NDArray[Any]]
"""Errors of one layer, as `_effect` measures them."""


@dataclass(frozen=True)
class Effects:
    """Measured effects of l layers at c numbers of bits (`BITS`).

    Attributes:
        names: Names of the layers, ``[l]``.
        weights: Number of weights of each layer, ``[l]``.
        own: Error power of the layer's own output relative to its signal power, ``[l, c]``.
        output: The same for the network's output, ``[l, c]``. nan if it was not measured.
        stored: Bits per weight in the file, ``[l, c]``.
        blocks: Number of block scales (multiples of a channel's scale) beside the codes, ``[l, c]``.
    """

    names: tuple[str, ...]
    weights: NDArray[np.int64]
    own: Doubles
    output: Doubles
    stored: NDArray[np.int64]
    blocks: NDArray[np.int64]

    @property
    def importance(self) -> Doubles:
        """Importance of each layer ``[l]``. See `passes.numerics.noise_table`."""
        return importance(self.own, self.output)

    @property
    def bytes(self) -> Doubles:
        """Bytes of each choice in the file, ``[l, c]``. A small layer is stored as int8 if that takes fewer."""
        codes: Doubles = np.ceil(self.weights[:, None] * self.stored / 8) + np.where(self.stored == 3, _NODES, 0)
        packed = codes + np.where(self.blocks, np.ceil(self.blocks / 2) + _BLOCK_NODES, 0)
        return np.minimum(packed, self.weights[:, None])

    @property
    def useful(self) -> Doubles:
        """Bytes of each choice, ``[l, c]``. inf if a choice takes at least as many bytes as one with more bits."""
        cheapest = np.minimum.accumulate(self.bytes[:, ::-1], axis=1)[
            :, ::-1
        ]  # over this choice and those with more bits
        wasted = self.bytes[:, :-1] >= cheapest[:, 1:]
        return np.where(np.pad(wasted, ((0, 0), (0, 1))), np.inf, self.bytes)

    def choices(self, layer_bits: Mapping[str, int]) -> NDArray[np.intp]:
        """Return the indices in `BITS` of the layers' bits ``[l]``, or of the next more, which are stored alike."""
        return np.searchsorted(BITS, [layer_bits[name] for name in self.names]).astype(np.intp)

    def layers(self) -> tuple[LayerEffect, ...]:
        """Return the effects for a report."""
        return tuple(
            LayerEffect(
                name,
                int(count),
                {bits: decibel(1.0, error) for bits, error in zip(BITS, own, strict=True)},
                {bits: decibel(1.0, error) for bits, error in zip(BITS, output, strict=True) if np.isfinite(error)},
                float(weight),
            )
            for name, count, own, output, weight in zip(
                self.names, self.weights, self.own, self.output, self.importance, strict=True
            )
        )


def measure_effects(
    source: onnx.ModelProto,
    recipe: Recipe,
    target: Target,
    fit: Dataset,
    held_out: Dataset,
    cache: Cache,
    memory_budget: int,
    progress: Progress,
    steps: StepCache = NO_CACHE,
) -> Effects:
    """Quantize every layer alone and measure the effect.

    Args:
        source: The float model. It is not changed.
        recipe: Its passes before the layer pass prepare the model, and its layer pass solves.
        target: Its rules and storage are used.
        fit: Images to solve on.
        held_out: Other images, to measure the effect on.
        cache: Layers that are in the cache are not solved again.
        memory_budget: Bytes of activations held in memory.
        progress: Called after every layer.
        steps: Where the statistics of activations and the choice of ranges are kept.
    """
    prepared = prepare_layers(source, recipe, target, fit, memory_budget, progress, steps)
    model, solver, layers = prepared.model, prepared.solver, prepared.layers
    rows = [row for _, row in _rows(prepared, recipe, fit, held_out, cache, memory_budget, progress)]
    storage = target.storage(recipe.storage)
    stored = np.array(
        [
            [bits_in_file(model, layer, storage, bits, block_size=block_of(solver, layer, bits)[0]) for bits in BITS]
            for layer in layers.values()
        ],
        np.int64,
    )
    return Effects(
        tuple(layers),
        np.array([np.prod(layer.matrix_shape) for layer in layers.values()], np.int64),
        np.array([row["own"] for row in rows]),
        np.array([row["output"] for row in rows]),
        stored,
        np.array(
            [
                [0 if size == 8 else _multiples(solver, layer, bits) for bits, size in zip(BITS, row, strict=True)]
                for layer, row in zip(layers.values(), stored, strict=True)
            ],
            np.int64,
        ),
    )


def measure_some(
    source: onnx.ModelProto,
    recipe: Recipe,
    target: Target,
    fit: Dataset,
    held_out: Dataset,
    memory_budget: int,
    part: int,
    parts: int,
    steps: StepCache,
) -> dict[str, Row]:
    """Measure the effects of every ``parts``-th layer, from ``part`` on. Other processes measure the others.

    Args:
        source, recipe, target, fit, held_out, memory_budget, steps: As in `measure_effects`.
        part, parts: Which of the layers.

    Returns:
        The rows by their names in the cache of `measure_effects`.
    """
    prepared = prepare_layers(source, recipe, target, fit, memory_budget, no_progress, steps)
    rows = _rows(prepared, recipe, fit, held_out, NOWHERE, memory_budget, no_progress, slice(part, None, parts))
    return dict(rows)


@dataclass(frozen=True)
class PreparedLayers:
    """A model whose layers are ready for a layer pass.

    Attributes:
        model: The float model after the passes before the layer pass.
        solver: The layer pass.
        layers: The layers that are measured, by name: one of each tie.
        ties: All layers that share a weight with a layer, by its name.
    """

    model: Model
    solver: LayerPass
    layers: dict[str, Linear]
    ties: Mapping[str, tuple[str, ...]]


def prepare_layers(
    source: onnx.ModelProto,
    recipe: Recipe,
    target: Target,
    fit: Dataset,
    memory_budget: int,
    progress: Progress,
    steps: StepCache = NO_CACHE,
) -> PreparedLayers:
    """Run the passes of a recipe before its layer pass. The arguments are as in `measure_effects`."""
    model = Model(import_graph(source), target.rules)
    context = PassContext(Images.all_of(fit), memory_budget, recipe, progress, cache=steps)
    solver = recipe.solver
    assert solver is not None  # layers are solved by a layer pass
    for step in recipe.passes[: recipe.passes.index(solver)]:
        run_pass(step, model, context)
    layers = model.layers_to_quantize()
    ties = tied_layers(layers.values())
    layers = {name: layer for name, layer in layers.items() if ties.get(name, (name,))[0] == name}
    return PreparedLayers(model, solver, layers, ties)


def _rows(
    prepared: PreparedLayers,
    recipe: Recipe,
    fit: Dataset,
    held_out: Dataset,
    cache: Cache,
    memory_budget: int,
    progress: Progress,
    which: slice = slice(None),
) -> Iterator[tuple[str, Row]]:
    """Yield the rows of layers by their names in the cache, in running order."""
    model, layers = prepared.model, prepared.layers
    wanted = frozenset(range(len(layers))[which])
    probe = Probe(model, held_out.limit(_PROBED, recipe.seed))
    with ActivationCache(memory_budget // 2) as activations:
        calibration = SequentialCalibration(
            model, model, layers, fit, activations, seed=recipe.seed, sequential=False, together=memory_budget // 2
        )
        for index, layer in enumerate(calibration.solving_order()):
            if index in wanted:
                name = f"effect-{index:04d}"
                row = cache.load(name)
                if row is None:
                    row = _effect(
                        model, prepared.solver.alone(), layer, calibration.moments(layer), probe, prepared.ties
                    )
                    cache.store(name, row)
                yield name, row
                progress("effects of layers", index + 1, len(layers))


def _multiples(solver: LayerPass, layer: Linear, bits: int) -> int:
    """Count the block scales of a layer."""
    block_size, _ = block_of(solver, layer, bits)
    if not solver.two_level or block_size is None:
        return 0
    return math.prod(layer.matrix_shape) // block_size


def _effect(
    model: Model,
    solver: LayerPass,
    layer: Linear,
    moments: Moments,
    probe: Probe,
    ties: Mapping[str, tuple[str, ...]],
) -> dict[str, NDArray[np.float64]]:
    """Measure the errors of one layer. The model is unchanged afterwards.

    The error at 8 bits is computed from that at 4 bits with one scale per channel. Every bit reduces it by 6.02 dB
    (measured: 24.3 dB for four bits, expected 24.1).

    Returns:
        "own": errors of the layer's own output ``[c]``. "output": errors of the network's output with this layer alone
        quantized ``[c]``, nan if not measured.
    """
    weight, bias, stored = model.weight(layer), model.bias(layer), model.float_weight(layer).stored
    min_scale = min_scale_of(model, layer, bias)
    every = model.layers()
    members = [every[name] for name in ties.get(layer.name, (layer.name,))]
    biases = [model.bias(member) for member in members]
    counts = [len(model.node(member.name).inputs) for member in members]
    own, output = np.full(len(BITS), np.nan), np.full(len(BITS), np.nan)
    for index, bits in enumerate(BITS[:-1]):
        solution = solver.solve(
            Problem(layer, weight, bias, bits, block_of(solver, layer, bits)[0], min_scale, moments)
        )
        own[index] = max(10 ** (-(solution.after_db or 0.0) / 10), _LEAST_ERROR)
        if bits in _TRIED:
            model.write_codes(members, solution.codes, solution.grid, corrected_biases(biases, bias, solution.bias))
            output[index] = probe.error(model)
            model.write_stored(members, stored, biases)
            for member, count in zip(members, counts, strict=True):
                inputs = model.node(member.name).inputs
                while len(inputs) > count:  # removes a bias that the solution added
                    inputs.pop()
    if solver.two_level:
        solution = solver.solve(Problem(layer, weight, bias, BITS[-2], None, min_scale, moments))
    own[-1] = max(10 ** (-(solution.after_db or 0.0) / 10), _LEAST_ERROR) / 4.0 ** (BITS[-1] - BITS[-2])
    return {"own": own, "output": output}
