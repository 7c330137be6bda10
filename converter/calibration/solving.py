"""Solve one layer, write its solution into the model, and keep solutions in a cache."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from converter.cache.folder import Cache
from converter.cache.steps import restored
from converter.cache.stored_values import pack
from converter.calibration.min_scale import largest, min_scale_of, within_pair_sum
from passes.base import LayerPass, Problem, Solution
from passes.errors import DataError, QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.ir.surgery import share_biases
from passes.numerics.grid import Floats, code_range
from passes.numerics.moments import Moments
from passes.numerics.two_level import MOST_BITS, equal_block
from passes.report import Change
from passes.weights.rtn import Rtn

__all__ = ["block_of", "corrected_biases", "keep_layer", "restore_layer", "rounding", "solve_layer"]

_RAISES = 4  # tries: a larger scale changes the corrected bias again, by less each time


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


def rounding(layer_pass: LayerPass) -> LayerPass:
    """Return a pass that rounds to the nearest code, with the grid of another pass.

    A solver that moves weights to where the layer's outputs are best moves rows of an embedding table away from theirs.
    The inputs of a recurrent weight are inside of its operator, so no solver has their moments.
    """
    return Rtn(
        bits=layer_pass.bits,
        symmetric=layer_pass.symmetric,
        block_size=layer_pass.block_size,
        two_level=layer_pass.two_level,
        fewest_blocks=layer_pass.fewest_blocks,
    )


def keep_layer(model: Model, members: Sequence[Linear], change: Change, cache: Cache) -> None:
    """Store what `solve_layer` wrote into the model.

    Args:
        model: The model.
        members: All layers that share the weight, the solved one among them.
        change: What `solve_layer` returned.
        cache: Cache of this pass on this model. It may store nothing.
    """
    if cache.folder is None:
        return
    first = members[0]
    quantized = model.quantized[first.name]
    solution = Solution(
        quantized.codes, quantized.grid, None, change.before_db, change.after_db, change.what, quantized.pruned
    )
    biases = tuple(model.bias(member) for member in members)
    cache.store(_stored_name(first), pack((first.name, quantized.sqnr_db, solution, biases)))


def restore_layer(model: Model, members: Sequence[Linear], cache: Cache) -> Change | None:
    """Write a stored solution into the model. Return what `solve_layer` returned, or None if nothing is stored.

    Args:
        model: Changed in place.
        members, cache: As for `keep_layer`.

    Raises:
        DataError: What is stored is damaged, or is no solution of this layer.
    """
    first = members[0]
    stored = restored(cache, _stored_name(first))
    if stored is None:
        return None
    if not _fits(stored, first, members):
        place = f"{cache.folder}/{_stored_name(first)}.npz"
        raise DataError(f"{place} is no solution of layer {first.name}; delete it to solve the layer again")
    _, sqnr, solution, biases = stored
    quantized = Quantized(solution.codes, solution.grid, sqnr, solution.pruned)
    for member in members:
        model.float_weights[member.name] = model.float_weight(member)
        model.quantized[member.name] = quantized
    model.write_codes(members, solution.codes, solution.grid, biases)
    if len(members) > 1:
        share_biases([model.node(member.name) for member in members])
    return Change(solution.note, solution.before_db, solution.after_db)


def _stored_name(layer: Linear) -> str:
    return f"layer-{hashlib.sha256(layer.name.encode()).hexdigest()[:16]}"


def _fits(stored: Any, layer: Linear, members: Sequence[Linear]) -> bool:
    """Whether a stored value is a solution of a layer: its name, shapes, types and ranges."""
    try:
        name, _, solution, biases = stored
        codes, grid = solution.codes, solution.grid
        low, high = code_range(grid.bits)
        scales, (groups, outputs, _) = grid.scale, layer.matrix_shape
        return bool(
            name == layer.name
            and codes.shape == layer.matrix_shape
            and codes.dtype == np.int8
            and low <= codes.min(initial=0)
            and codes.max(initial=0) <= high
            and scales.dtype == np.float32
            and scales.shape[:2] == grid.zero_point.shape[:2] == (groups, outputs)
            and np.isfinite(scales).all()
            and (scales > 0).all()
            and len(biases) == len(members)
            and all(bias is None or (bias.shape == (groups, outputs) and np.isfinite(bias).all()) for bias in biases)
        )
    except (AttributeError, TypeError, ValueError):
        return False
