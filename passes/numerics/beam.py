"""GPTQ's sweep as a beam search: it finds closer lattice points than GPTQ does.

Rounding one input after the other is Babai's nearest-plane algorithm on the lattice that the Hessian spans (Chen et
al. 2025, arXiv 2507.18553). The resulting error is the sum of the ``e_j²``. An early choice that looks best can turn
out badly. So the search works like K-best sphere decoding: every partial rounding is extended by the two nearest codes
of the next input, and the best few are kept. The search is repeated for several scales around the given one. Layers
with few inputs gain most: with the 27 inputs of a first convolution GPTQ stays 2 to 3 dB behind.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Codes, Floats, Grid, code_range

__all__ = ["FACTORS", "beam_search", "beam_work"]

FACTORS = tuple(float(1.05**power) for power in range(-5, 6))
"""Factors by which the given scales are multiplied. 1 is one of them."""


def beam_work(shape: tuple[int, int, int], beam: int) -> int:
    """Return the number of multiplications that `beam_search` needs for a weight of shape ``(g, o, k)``."""
    groups, outputs, k = shape
    return groups * outputs * k * k * beam * len(FACTORS)


def beam_search(
    target: Floats,
    upper: Floats,
    grid: Grid,
    order: NDArray[np.intp],
    *,
    beam: int,
    min_scale: Floats | None = None,
    kept: NDArray[np.bool_] | None = None,
) -> tuple[Codes, Grid]:
    """Round a weight by beam search, for several scales.

    Args:
        target: Weight to round, ``[g, o, k]``, inputs in the order of the sweep.
        upper: U of ``H⁻¹ = UᵀU``, ``[g, k, k]``, inputs in the order of the sweep.
        grid: Grid of the weight, inputs in their original order.
        order: Order of the sweep: indices of the inputs, ``[g, k]``.
        beam: Number of partial roundings that are kept at each input.
        min_scale: Smallest allowed scale, ``[g, o]``.
        kept: Weights that may differ from zero, ``[g, o, k]``, inputs in the order of the sweep. None: all.

    Returns:
        The codes ``[g, o, k]``, inputs in the order of the sweep, and the grid with the best scales.
    """
    groups, outputs, k = target.shape
    factors = np.repeat(np.array(FACTORS, np.float32)[:, None, None], outputs, axis=1)  # [f, o, 1]
    wider = grid.scale[:, None] * factors[None]  # [g, f, o, b]
    if min_scale is not None:
        wider = np.maximum(wider, min_scale[:, None, :, None])
    many = replace(
        grid,
        scale=wider.reshape(groups, -1, wider.shape[3]),
        zero_point=np.tile(grid.zero_point, (1, len(FACTORS), 1)),
        multiples=None if grid.multiples is None else np.tile(grid.multiples, (1, len(FACTORS), 1)),
    )
    scale, zero = many.spread(k)
    columns = order[:, None, :]
    step, offset = np.take_along_axis(scale, columns, axis=2), np.take_along_axis(zero, columns, axis=2)
    allowed = None if kept is None else np.tile(kept, (1, len(FACTORS), 1))
    codes, cost = _search(np.tile(target, (1, len(FACTORS), 1)), upper, step, offset, grid.bits, beam, allowed)
    best = cost.reshape(groups, len(FACTORS), outputs).argmin(axis=1)  # [g, o]
    chosen = codes.reshape(groups, len(FACTORS), outputs, k)
    best_codes = np.take_along_axis(chosen, best[:, None, :, None], axis=1)[:, 0]
    best_scale = np.take_along_axis(wider, best[:, None, :, None], axis=1)[:, 0]
    return best_codes, replace(grid, scale=np.ascontiguousarray(best_scale, np.float32))


def _search(
    target: Floats,
    upper: Floats,
    step: Floats,
    zero: Codes,
    bits: int,
    beam: int,
    kept: NDArray[np.bool_] | None,
) -> tuple[Codes, NDArray[np.float32]]:
    """Return the best codes ``[g, n, k]`` of every row, and their error ``[g, n]``."""
    low, high = code_range(bits)
    groups, rows, k = target.shape
    work = target[:, :, None, :]  # [g, n, beam, remaining inputs]
    cost = np.zeros((groups, rows, 1), np.float32)
    chosen: list[tuple[Codes, NDArray[np.intp]]] = []  # of each input: the codes and their parents, [g, n, beam]
    for j in range(k):
        column, scale, offset = work[..., 0], step[:, :, j, None], zero[:, :, j, None]
        ideal = column / scale
        first = np.rint(ideal)
        second = first + np.where(ideal >= first, np.float32(1), np.float32(-1))
        both: Floats = np.clip(np.stack([first, second], axis=3) + offset[..., None], low, high)  # [g, n, beam, 2]
        if kept is not None:
            both = np.where(kept[:, :, j, None, None], both, offset[..., None])
        missed: Floats = column[..., None] - (both - offset[..., None]) * scale[..., None]
        error = missed / upper[:, j, j, None, None, None]
        total = cost[..., None] + np.square(error)
        total[..., 1] = np.where(both[..., 0] == both[..., 1], np.inf, total[..., 1])
        flat = total.reshape(groups, rows, -1)
        width = min(beam, flat.shape[2])
        index = np.argpartition(flat, width - 1, axis=2)[..., :width]
        cost = np.take_along_axis(flat, index, axis=2)
        parent = index // 2
        error = np.take_along_axis(error.reshape(flat.shape), index, axis=2)
        chosen.append((np.take_along_axis(both.reshape(flat.shape), index, axis=2).astype(np.int8), parent))
        work = np.take_along_axis(work[..., 1:], parent[..., None], axis=2)
        work -= error[..., None] * upper[:, None, None, j, j + 1 :]
    best = cost.argmin(axis=2)[..., None]
    least = np.take_along_axis(cost, best, axis=2)[..., 0]
    codes = np.empty((groups, rows, k), np.int8)
    for j, (code, parent) in reversed(list(enumerate(chosen))):
        codes[..., j] = np.take_along_axis(code, best, axis=2)[..., 0]
        best = np.take_along_axis(parent, best, axis=2)
    return codes, least
