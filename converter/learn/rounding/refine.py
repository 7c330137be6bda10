"""Learned rounding over a network, block by block, on the inputs that the blocks before produce.

As in `converter.calibration.sequential`, a float stream and a quantized stream run side by side. Here one step is a
block, and `converter.learn.rounding.rounding` solves it.

The codes of GPTQ compensate for the errors of the layers before. A block that has learned makes other errors. So the
layers behind it are solved again before they learn themselves.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from converter.cache.folder import NOWHERE, Cache
from converter.calibration.activation_cache import ActivationCache
from converter.calibration.correction import float_network, restore_float_weight
from converter.calibration.layer_inputs import SequentialCalibration
from converter.calibration.paired_run import FLOAT, QUANTIZED, PairedRun
from converter.calibration.segments import Segment, cut, submodel
from converter.calibration.solving import solve_layer
from converter.data.dataset import Dataset
from converter.learn.device import find_device
from converter.learn.graph.program import Program, unsupported
from converter.learn.graph.spatial import NoTorchForm
from converter.learn.held_out import hold_out
from converter.learn.learnable import no_layer
from converter.learn.rounding.blocks import blocks, join, sole_boundaries
from converter.learn.rounding.fake_quantize import LearnedWeight, QuantizedBlock
from converter.learn.rounding.kept_blocks import KeptBlock, keep_block, restore_block
from converter.learn.rounding.loss import NO_GRADIENTS, BlockLoss, channel_axes, output_importance
from converter.learn.rounding.network_check import Snapshot, network_db
from converter.learn.rounding.outcomes import BlockOutcomes
from converter.learn.rounding.rounding import Outcome, learn
from converter.learn.rounding.samples import Samples, looks_around, run_in_batches, windows
from converter.learn.rounding.soft_rounding import SoftWeight
from converter.qdq.floats import float_model
from converter.qdq.layer_forms import runs_on_integers
from converter.runtime.session import Progress, open_session
from passes.base import LayerPass
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.ties import shared_with, tied_layers
from passes.numerics.grid import Floats
from passes.report import Change, PassReport
from passes.weights.learned_rounding import LearnedRounding

__all__ = ["refine_blocks"]

_COPIES = 3  # of a block's inputs while it learns: both streams, and outputs of about that size

_IMPORTANT = 32  # images that measure how much the network depends on each channel

_REJECTED = "single blocks gained, but the whole network did not ({:.2f} -> {:.2f} dB on held-out samples)"


def refine_blocks(
    model: Model,
    settings: LearnedRounding,
    data: Dataset,
    progress: Progress,
    *,
    solver: LayerPass | None,
    memory_budget: int,
    seed: int,
    kept: Cache = NOWHERE,
) -> PassReport:
    """Refine the codes, scales and biases of every block that gains. If the network does not gain, no block changes.

    Args:
        model: Quantized by a layer pass. It changes in place.
        settings: The pass.
        data: Calibration data.
        progress: Called after every block.
        solver: The layer pass that solves the layers behind a learned block again. With None these layers stay. Then a
            block may gain only what its successors had compensated for, so the network is judged after every block.
        memory_budget: As for `converter.calibration.sequential.solve_layers`.
        seed: Random seed of the held-out samples, the windows and the batches.
        kept: Blocks that have learned already, by this pass on this model and these data. New ones are added.

    Returns:
        The report of the pass.

    Raises:
        QuantizationError: No layer is quantized yet, all of them are in bodies, or the settings require a CUDA device
            and there is none.
    """
    layers = {name: layer for name, layer in model.layers().items() if name in model.quantized}
    ties = tied_layers(layers.values())
    if not model.layers():
        raise QuantizationError(f"{settings.name} can learn no layer: {no_layer(model)}")
    if not layers or not all(name in model.float_weights for name in layers):
        raise QuantizationError(f"{settings.name} refines quantized layers; put it after gptq or rtn in the recipe")
    device = find_device(settings.device, settings.name)
    left = {name: f"{shared_with(name, ties)}, so it is not learned" for name in ties}
    layers = {name: layer for name, layer in layers.items() if name not in ties}
    if not layers:
        return PassReport(settings.name, skipped={**model.float_reasons, **left})
    start, outcomes = Snapshot(model, layers), BlockOutcomes({**model.float_reasons, **left})
    in_memory = memory_budget // 2
    judge_budget = round(in_memory * settings.held_out)
    with ActivationCache(in_memory - judge_budget) as train_cache, ActivationCache(judge_budget) as judge_cache:
        caches = (train_cache, judge_cache)
        network = _Network(model, layers, data, caches, settings, device, seed=seed, memory=memory_budget)
        before = best = network.decibels()
        pieces = network.pieces()
        if settings.loss == "network":
            network.measure_importance({name for piece in pieces for name in piece.whole.outputs})
        for index, piece in enumerate(pieces):
            block = network.learn_block(piece, index, solver, best, kept)
            best = best if block.network_db is None else block.network_db
            outcomes.solved |= block.solved
            outcomes.record(block.outcome, network.inside(piece))
            network.leave(piece, block.learned)
            progress(settings.name, index + 1, len(pieces))
        after = best if solver is None else network.decibels()
    if outcomes.learned and not after > before:
        start.restore(model)
        outcomes.reject(_REJECTED.format(before, after))
    notes = [
        f"{len(outcomes.learned)} of {len(layers)} layers learned; {settings.steps} steps per block on {device.type}"
    ]
    behind = len(outcomes.solved.keys() - outcomes.learned.keys())
    if behind:
        notes.append(f"{behind} layers after them were solved again on their new inputs")
    if outcomes.learned:
        notes.append(f"outputs of the network {before:.2f} -> {after:.2f} dB on held-out samples")
    return PassReport(settings.name, outcomes.changed(), outcomes.skipped(), tuple(notes))


@dataclass(frozen=True)
class _Piece:
    """A block that is learned together, as one segment and as the segments that it consists of."""

    whole: Segment
    parts: Sequence[Segment]


class _Network:
    """Both streams, for the training images and for the held-out samples, and the learning of one block."""

    def __init__(
        self,
        model: Model,
        layers: dict[str, Linear],
        data: Dataset,
        cache: tuple[ActivationCache, ActivationCache],
        settings: LearnedRounding,
        device: torch.device,
        *,
        seed: int,
        memory: int,
    ) -> None:
        self.model, self.layers, self.seed, self.memory = model, layers, seed, memory
        self.settings, self.device = settings, device
        self.reference = float_network(model)
        split = hold_out(len(data), settings.held_out, seed)
        self.judge_images = data.select(split.judge)
        self.calibration = SequentialCalibration(
            model, self.reference, layers, data.select(split.train), cache[0], seed=seed, together=memory // 2
        )
        self.train = self.calibration.pair
        self.judge = PairedRun(model, self.reference, self.judge_images, cache[1], together=memory // 2)
        self.importance: dict[str, torch.Tensor] = {}
        self.axes = channel_axes(model.graph, model.layers())
        self.changed_tensors = set[str]()  # tensors of the quantized network that differ because a block has learned

    def decibels(self) -> float:
        """Signal-to-noise ratio of the network's outputs on the held-out samples, in dB."""
        return network_db(self.model, self.reference, self.judge_images)

    def inside(self, piece: _Piece) -> dict[str, Linear]:
        """Layers of a block that learn, by name."""
        return {name: self.layers[name] for name in piece.whole.nodes if name in self.layers}

    def learn_block(self, piece: _Piece, index: int, solver: LayerPass | None, best: float, kept: Cache) -> KeptBlock:
        """Run a block and learn it, or take what is kept of it.

        Args:
            piece: The block.
            index: Its number.
            solver: See `refine_blocks`. With None, the block changes only if the network gains.
            best: SQNR of the network before the block, in dB.
            kept: See `refine_blocks`.
        """
        inside = self.inside(piece)
        block = restore_block(self.model, index, inside, kept)
        solved = self.enter(piece, solver if block is None else None)
        if block is not None:
            return block
        before = Snapshot(self.model, inside)
        block = KeptBlock(self.refine(piece.whole, inside, index) if inside else "", solved)
        if block.learned and solver is None:
            after = self.decibels()
            if after > best:
                block = replace(block, network_db=after)
            else:
                before.restore(self.model)
                block = KeptBlock(_REJECTED.format(best, after), solved)
        keep_block(self.model, index, inside, block, kept)
        return block

    def measure_importance(self, names: set[str]) -> None:
        """Measure how much the network's outputs depend on each channel of some tensors, on some training images.

        Raises:
            QuantizationError: The network has no gradient, or no output varies over the images.
        """
        reason = unsupported(self.reference.graph.nodes)
        if reason:
            raise QuantizationError(NO_GRADIENTS.format(reason))
        draws = torch.Generator().manual_seed(self.seed)
        try:
            program = Program(float_network(self.model).graph, self.device)
            self.importance = output_importance(program, self._few_inputs(), names, draws, self.axes)
        except NoTorchForm as error:
            raise QuantizationError(NO_GRADIENTS.format(error)) from error

    def _few_inputs(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield inputs of the network, batch by batch."""
        names, left = [str(tensor.name) for tensor in self.reference.graph.inputs], _IMPORTANT
        for at in range(len(self.train.parts)):
            arrays = {name: self.train.get(FLOAT, name, at)[:left] for name in names}
            yield {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}
            left -= len(next(iter(arrays.values())))
            if left <= 0:
                return

    def pieces(self) -> list[_Piece]:
        """Cut the network into blocks. Outputs of the graph count as outputs of the block that writes them."""
        segments = cut(self.model.graph, self.layers)
        if self.settings.granularity == "network":
            groups = [segments]
        elif self.settings.granularity == "layer":
            groups = [[segment] for segment in segments]
        else:
            groups = blocks(
                segments, self._sizes(set(sole_boundaries(segments).values())), self.settings.layers_per_block
            )
        graph_outputs = [str(tensor.name) for tensor in self.model.graph.outputs]
        written = {str(node.name): [str(tensor.name) for tensor in node.outputs] for node in self.model.graph.nodes}
        result = []
        for parts in groups:
            whole = join(parts)
            written_here = {name for node in whole.nodes for name in written[node]}
            outputs = dict.fromkeys([*whole.outputs, *(name for name in graph_outputs if name in written_here)])
            result.append(_Piece(replace(whole, outputs=tuple(outputs)), parts))
        return result

    def enter(self, piece: _Piece, solver: LayerPass | None) -> dict[str, Change]:
        """Run a block before it learns. Its inputs stay in the cache.

        Returns:
            What the solver changed in layers behind blocks that learned, by layer name.
        """
        changed = {}
        for segment in piece.parts:
            if self.changed_tensors.intersection(segment.inputs):
                self.changed_tensors.update(segment.outputs)
                if solver is not None and segment.layer is not None:
                    changed[segment.layer] = self._solve(solver, self.layers[segment.layer])
            for pair in (self.train, self.judge):
                pair.advance(segment, retained=piece.whole.inputs)
        return changed

    def leave(self, piece: _Piece, learned: bool) -> None:
        """Recompute the block's outputs if it has learned, and drop the tensors that no later block reads."""
        if learned:
            self.changed_tensors.update(piece.whole.outputs)
        for pair in (self.train, self.judge):
            if learned:
                pair.rerun_quantized(piece.whole)
            pair.forget(piece.whole.released)

    def _solve(self, solver: LayerPass, layer: Linear) -> Change:
        """Solve a layer again, from its float weight."""
        previous = self.model.quantized[layer.name]
        restore_float_weight(self.model, layer)
        change = solve_layer(self.model, solver, layer, previous.grid.bits, self.calibration.moments(layer))
        return Change(f"solved again after layers that learned, {change.what}", previous.sqnr_db, change.after_db)

    def refine(self, piece: Segment, inside: dict[str, Linear], index: int) -> Outcome | str:
        """Learn one block and write any gain into the model. Return the outcome, or why the block cannot learn."""
        nodes = [self.model.node(name) for name in piece.nodes]
        reason = unsupported(nodes)
        if reason:
            return reason
        first = {name: self.train.get(FLOAT, name, 0) for name in piece.inputs}
        if any(values.dtype != np.float32 for values in first.values()):
            return "the block reads tensors that are not float"
        program = Program(submodel(self.reference, piece, self.train.kinds).graph, self.device)
        side = self.settings.window if looks_around(nodes, first) else None
        seed = self.seed + index
        try:
            train, held_out = (
                _samples(pair, piece, program, side, seed, self.device, self.memory)
                for pair in (self.train, self.judge)
            )
        except NoTorchForm as error:
            return f"{error} has no differentiable form"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # the shapes hold for one batch size only
            images = sum(part.count for part in self.train.parts)
            return f"torch cannot run the block on {images} images: {str(error).splitlines()[0]}"
        if any(len(value) != len(train) for value in train.target.values()):
            return "the block's outputs do not have one entry for every image"
        block = self._block(piece, inside, program, train)
        loss = BlockLoss(self.settings.loss, train.target, self.importance, self.axes)
        outcome = learn(block, train, held_out, self.settings, seed, loss)
        if outcome.improved:
            for weight in block.learned():
                weight.write(self.model)
        return outcome

    def _block(self, piece: Segment, inside: dict[str, Linear], program: Program, train: Samples) -> QuantizedBlock:
        writers, spread = {layer.output: layer for layer in inside.values()}, dict[str, Floats]()

        def measure(name: str, value: torch.Tensor) -> torch.Tensor:
            if name in writers:
                axis = 1 if writers[name].kernel else value.ndim - 1  # axis of the channels
                axes = [other for other in range(value.ndim) if other != axis]
                spread[name] = value.std(dim=axes, unbiased=False).cpu().numpy()
            return value

        with torch.no_grad():
            program({name: value[:32] for name, value in train.exact.items()}, after=measure)
        weights: list[LearnedWeight] = []
        for name, layer in inside.items():
            quantized = self.model.quantized[name]
            unit = spread[layer.output].reshape(layer.matrix_shape[:2])
            step = (
                float(self.model.activation_qparams[layer.input].scale) if runs_on_integers(self.model, layer) else None
            )
            bias = self.model.bias(layer)
            kept = None if quantized.pruned is None else quantized.pruned.kept
            state = (layer, quantized.codes, quantized.grid, bias, unit, step, kept)
            if self.settings.method == "soft":
                exact = self.reference.weight(layer)
                weights.append(SoftWeight(*state, exact=exact, start=self.settings.soft_start).to(self.device))
            else:
                weights.append(LearnedWeight(*state).to(self.device))
        written = {str(tensor.name) for name in piece.nodes for tensor in self.model.node(name).outputs}
        ranges = {name: grid for name, grid in self.model.activation_qparams.items() if name in written}
        return QuantizedBlock(program, weights, ranges, self._fixed(piece, inside))

    def _fixed(self, piece: Segment, inside: dict[str, Linear]) -> dict[str, torch.Tensor]:
        """Weights and biases of the block's quantized layers that do not learn, by tensor name."""
        fixed = {}
        layers = self.reference.layers()
        for name in piece.nodes:
            if name not in self.model.quantized or name in inside:
                continue
            weight, bias = self.model.weight(layers[name]), self.model.bias(layers[name])
            fixed[layers[name].weight] = torch.tensor(layers[name].stored(weight))
            if bias is not None and layers[name].bias is not None:
                fixed[str(layers[name].bias)] = torch.from_numpy(bias.reshape(-1))
        return fixed

    def _sizes(self, names: set[str]) -> dict[str, int]:
        """Elements per image of the named tensors of the float network."""
        proto = float_model(self.reference.graph)
        inputs = [value.name for value in proto.graph.input]
        feeds = {name: self.train.cache.get(FLOAT, name, 0) for name in inputs}
        computed = sorted(names - set(inputs))
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in computed)
        outputs = open_session(proto).run(computed, feeds) if computed else []
        arrays = [*feeds.items(), *zip(computed, outputs, strict=True)]
        return {name: values.size // len(values) for name, values in arrays}


def _samples(
    pair: PairedRun, piece: Segment, program: Program, side: int | None, seed: int, device: torch.device, most: int
) -> Samples:
    """A block's inputs in both streams, and the outputs of the float block. They take at most about ``most`` bytes."""
    batches = range(_fitting(pair, piece, side, most))
    quantized, exact = (
        windows({name: [pair.get(stream, name, at) for at in batches] for name in piece.inputs}, side, device, seed)
        for stream in (QUANTIZED, FLOAT)
    )
    return Samples(quantized, exact, run_in_batches(program, exact))


def _fitting(pair: PairedRun, piece: Segment, side: int | None, most: int) -> int:
    """Number of batches, at least 1, whose inputs in both streams and outputs take at most ``most`` bytes."""
    total = 0
    for at in range(len(pair.parts)):
        for name in piece.inputs:
            values = pair.get(FLOAT, name, at)
            share = 1.0 if side is None else min(1.0, side * side / math.prod(values.shape[2:]))
            total += round(_COPIES * values.nbytes * share)
        if at and total > most:
            return at
    return len(pair.parts)
