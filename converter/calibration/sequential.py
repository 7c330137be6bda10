"""Sequential calibration: solve one layer after the other, on the inputs that the network before it produces.

Two streams of activations run side by side, segment by segment (`converter.calibration.paired_run`). One is the float
network's. The other is the quantized network's, with weights and activations as they will be deployed: each segment is
emitted and run as the final file will be. Each segment runs once. Only tensors that a later segment reads are held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.layer_inputs import SequentialCalibration
from converter.calibration.min_scale import largest, min_scale_of, within_pair_sum
from converter.data.dataset import Dataset
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.session import Progress
from passes.base import LayerPass, Problem, Solution
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import UNREACHED, Model, Quantized
from passes.ir.surgery import share_biases
from passes.ir.ties import shared_with, tied_layers
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.two_level import MOST_BITS, equal_block
from passes.report import Change, PassReport
from passes.weights.rtn import Rtn

__all__ = [
    "corrected_biases",
    "solve_layer",
    "solve_layers",
]

_RAISES = 4  # tries: a larger scale changes the corrected bias again, by less each time


def solve_layers(
    model: Model,
    layer_pass: LayerPass,
    data: Dataset | None,
    progress: Progress,
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    seed: int = 0,
) -> PassReport:
    """Run a layer pass over every layer that will be quantized.

    Args:
        model: Changed in place. Weights become dequantized values, and `Model.quantized` gets the codes.
        layer_pass: The pass that solves a layer.
        data: Calibration data. It may be None for a pass that needs no moments.
        progress: Called after every layer.
        memory_budget: Bytes of activations in memory: half for samples that run together, half for those that are kept.
            Later ones go to files.
        seed: Random seed of the output positions that are sampled from each image.

    Returns:
        The report of the pass.

    Raises:
        QuantizationError: A layer cannot be solved.
        DataError: An activation is NaN or Inf. The message names the tensor.
    """
    _untie_float_layers(model)
    layers = model.layers_to_quantize()
    ties = tied_layers(layers.values())
    tables = model.tables()
    bits = layer_pass.bits_of(layers, model.graph, tables)
    changed: dict[str, Change] = {}

    def solve(layer: Linear, moments: Moments | None) -> None:
        members = [layers[name] for name in ties.get(layer.name, (layer.name,))]
        solver = _rounding(layer_pass) if layer.name in tables else layer_pass
        change = solve_layer(model, solver, layer, bits[layer.name], moments, members)
        for member in members:
            table = f"weight shared with {', '.join(tables[layer.name].readers)}" if layer.name in tables else ""
            parts = (change.what, shared_with(member.name, ties), table)
            changed[member.name] = replace(change, what=", ".join(part for part in parts if part))
        progress(layer_pass.name, len(changed), len(layers))

    notes: tuple[str, ...] = ()
    if layer_pass.wants_moments and data is not None:
        others = _moments_of_later_readers(model, layers, ties, data, memory_budget, seed) if ties else {}
        with ActivationCache(memory_budget // 2) as cache:
            # With ties, a layer is quantized before the float stream has come to it.
            reference = Model(model.graph.copy(), model.rules) if ties else model
            calibration = SequentialCalibration(
                model,
                reference,
                layers,
                data,
                cache,
                seed=seed,
                sequential=layer_pass.sequential,
                together=memory_budget // 2,
            )
            for layer in calibration.solving_order():
                if layer.name in changed:
                    continue
                weight = None if layer_pass.reads_cross else model.weight(layer)
                both = (calibration.find_moments(layer, weight=weight), others.pop(layer.name, None))
                known = [each for each in both if each is not None]
                if known:
                    solve(layer, Moments.pooled(*known) if len(known) > 1 else known[0])
                else:
                    model.float_reasons |= dict.fromkeys(ties.get(layer.name, (layer.name,)), UNREACHED)
        if cache.spilled:
            notes = (f"{cache.spilled} activation batches were kept in files",)
    else:
        for layer in layers.values():
            if layer.name not in changed:
                solve(layer, None)
    ordered = {name: changed[name] for name in layers if name in changed}
    return PassReport(layer_pass.name, ordered, dict(model.float_reasons), notes)


def _rounding(layer_pass: LayerPass) -> LayerPass:
    """Return a pass that rounds to the nearest code, with the grid of another pass.

    A solver that moves weights to where the layer's outputs are best moves rows of an embedding table away from theirs.
    """
    return Rtn(
        bits=layer_pass.bits,
        symmetric=layer_pass.symmetric,
        block_size=layer_pass.block_size,
        two_level=layer_pass.two_level,
        fewest_blocks=layer_pass.fewest_blocks,
    )


def _untie_float_layers(model: Model) -> None:
    """Give layers that are quantized a weight of their own, where they share it with layers that stay in float."""
    for names in set(tied_layers(model.layers().values()).values()):
        quantized = [name for name in names if name not in model.float_reasons]
        if quantized and len(quantized) < len(names):
            model.untie(quantized)


def _moments_of_later_readers(
    model: Model,
    layers: dict[str, Linear],
    ties: Mapping[str, tuple[str, ...]],
    data: Dataset,
    memory_budget: int,
    seed: int,
) -> dict[str, Moments]:
    """Moments of all layers but the first that runs of those that share a weight, in the float network.

    Returns:
        The moments by the name of the layer that runs first.
    """
    result: dict[str, Moments] = {}
    first: dict[tuple[str, ...], str] = {}
    with ActivationCache(memory_budget // 2) as cache:
        calibration = SequentialCalibration(
            model, model, layers, data, cache, seed=seed, sequential=False, together=memory_budget // 2
        )
        for layer in calibration.solving_order():
            if layer.name not in ties:
                continue
            leader = first.setdefault(ties[layer.name], layer.name)
            if leader != layer.name:
                moments = calibration.find_moments(layer, halved=True)
                if moments is not None:
                    result[leader] = Moments.pooled(result[leader], moments) if leader in result else moments
    return result


def solve_layer(
    model: Model,
    layer_pass: LayerPass,
    layer: Linear,
    bits: int,
    moments: Moments | None,
    members: Sequence[Linear] = (),
) -> Change:
    """Solve one layer whose weight is in float, and write the solution into the model.

    Args:
        model: Changed in place.
        layer_pass: The pass that solves the layer.
        layer: Geometry of the layer.
        bits: Bits of the weight codes.
        moments: Moments of the layer's inputs. None for a pass that needs none. For a shared weight, moments of the
            inputs of all layers that read it.
        members: All layers that share the weight. They all get the solution. The correction of the bias is the same.

    Returns:
        What changed, for the report.
    """
    block_size, why = block_of(layer_pass, layer, bits)
    members = members or (layer,)
    weight, bias = model.weight(layer), model.bias(layer)
    biases = [model.bias(member) for member in members]
    min_scale = _min_scale(model, members, biases)
    solution = _solved(layer_pass, Problem(layer, weight, bias, bits, block_size, min_scale, moments))
    raised = ""
    for _ in range(_RAISES):
        needed = _min_scale(model, members, corrected_biases(biases, bias, solution.bias))
        if min_scale is None or needed is None or (2 * solution.grid.scale.min(axis=2) >= needed).all():
            break
        min_scale, raised = np.maximum(min_scale, needed), "scale raised for the corrected bias"
        solution = _solved(layer_pass, Problem(layer, weight, bias, bits, block_size, min_scale, moments))
    sqnr = solution.after_db if solution.after_db is not None else float("nan")
    codes = within_pair_sum(model, layer, solution.codes, solution.grid)
    quantized = Quantized(codes, solution.grid, sqnr, solution.pruned)
    for member in members:
        model.float_weights[member.name] = model.float_weight(member)
        model.quantized[member.name] = quantized
    model.write_codes(members, codes, solution.grid, corrected_biases(biases, bias, solution.bias))
    if len(members) > 1:
        share_biases([model.node(member.name) for member in members])
    size = "per channel" if block_size is None else f"blocks of {block_size}"
    what = ", ".join(part for part in (f"{bits} bits {size}", why, solution.note, raised) if part)
    return Change(what, solution.before_db, solution.after_db)


def _solved(layer_pass: LayerPass, problem: Problem) -> Solution:
    """Solve one layer. Refuse a solution that a pass of another package got wrong."""
    solution: object = layer_pass.solve(problem)
    if not isinstance(solution, Solution):
        raise QuantizationError(f"{layer_pass.name}: solve() returned {type(solution).__name__}; return a Solution")
    if solution.codes.shape != problem.weight.shape:
        raise QuantizationError(
            f"{layer_pass.name}: solve() gave {problem.layer.name} codes of shape {solution.codes.shape}; give the "
            f"shape of its weight, {problem.weight.shape}"
        )
    return solution


def corrected_biases(
    biases: Sequence[Floats | None], solved: Floats | None, corrected: Floats | None
) -> Sequence[Floats | None]:
    """Biases after the correction that ``solved`` got, one of them. Layers without a bias get the correction as one."""
    if len(biases) == 1:
        return [corrected]
    if corrected is None:
        return biases
    change = corrected if solved is None else corrected - solved
    if not change.any():
        return biases
    return [change if bias is None else bias + change for bias in biases]


def _min_scale(model: Model, members: Sequence[Linear], biases: Sequence[Floats | None]) -> Floats | None:
    """`min_scale_of` of all layers that share a weight."""
    return largest(min_scale_of(model, member, bias) for member, bias in zip(members, biases, strict=True))


def block_of(layer_pass: LayerPass, layer: Linear, bits: int) -> tuple[int | None, str]:
    """The block size of a layer, and the reason if it is not the one of the pass."""
    if layer_pass.block_size is None or layer_pass.block_size >= layer.matrix_shape[2]:
        return None, ""
    if layer.op == "ConvTranspose":
        return None, "ConvTranspose is stored per channel"
    if layer_pass.two_level:
        groups, outputs, k = layer.matrix_shape
        block_size = (
            None
            if bits > MOST_BITS
            else equal_block(groups * outputs, k, layer_pass.block_size, layer_pass.fewest_blocks)
        )
        return (
            block_size,
            ""
            if block_size or bits > MOST_BITS
            else f"{k} inputs cannot be cut into equal blocks of about {layer_pass.block_size}",
        )
    return layer_pass.block_size, ""
