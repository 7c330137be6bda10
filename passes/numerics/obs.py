"""Optimal Brain Surgeon on one layer: remove one weight at a time, the cheapest first, and adjust all others.

Hassibi & Stork 1992; for the output error of a layer Frantar & Alistarh 2022 (arXiv 2208.11580, ExactOBS, §4 and
algorithm 1). The Hessian of the error is the same for all rows. p is the next weight of a row to remove, among those
that are left, and H⁻¹ the inverse Hessian of these alone:

    p = argmin w_p² / [H⁻¹]_pp,   w -= w_p / [H⁻¹]_pp H⁻¹_:p   (equation 3)
    H⁻¹ -= H⁻¹_:p H⁻¹_p: / [H⁻¹]_pp                            (lemma 1)

Every row is emptied by itself, and the costs are recorded. Then the cheapest removals of all rows are taken (algorithm
2). It takes k³ operations for each row of k weights, so it is for small layers.
"""

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Floats
from passes.numerics.sparsity import Mask, Sparsity

__all__ = ["exact_mask"]

Doubles = NDArray[np.float64]

_WORKING_SET = 1 << 24  # most elements of the inverse Hessians that are updated together


def exact_mask(weight: Floats, hessian: Floats, sparsity: Sparsity) -> Mask:
    """Return the weights that are left, ``[g, o, k]``.

    Args:
        weight: ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        sparsity: Which weights may be removed, and how many.

    Raises:
        numpy.linalg.LinAlgError: The Hessian of a group is not positive definite.
    """
    k = weight.shape[2]
    rows = max(1, _WORKING_SET // (k * k))
    cost, order = np.empty(weight.shape), np.empty(weight.shape, np.intp)
    groups = _group_of_each(k, sparsity)
    most = k if sparsity.groups is None else sparsity.groups[1] - sparsity.groups[0]
    for group, matrix in enumerate(hessian.astype(np.float64)):
        inverse_root = np.linalg.inv(np.linalg.cholesky(matrix))
        inverse = inverse_root.T @ inverse_root
        for start in range(0, weight.shape[1], rows):
            part = np.s_[group, start : start + rows]
            cost[part], order[part] = _emptied(weight[part], inverse, groups, most)
    kept = np.ones(weight.shape, np.bool_)
    if sparsity.groups is None:
        # A row's removals are taken in its order. So the cheapest removal is that of the lowest cost so far.
        so_far = np.maximum.accumulate(cost, axis=2)
        taken = np.zeros(cost.size, np.bool_)
        taken[so_far.ravel().argsort(kind="stable")[: sparsity.removed(cost.size)]] = True
    else:
        taken = np.isfinite(cost).ravel()
    g, o, step = np.nonzero(taken.reshape(cost.shape))
    kept[g, o, order[g, o, step]] = False
    return kept


def _group_of_each(k: int, sparsity: Sparsity) -> NDArray[np.intp]:
    """Return the number of the group of every input, ``[k]``. Without groups all inputs are in one."""
    numbers = np.zeros(k, np.intp)
    if sparsity.groups is not None:
        numbers[sparsity.neighbours(k)] = np.arange(k) // sparsity.groups[1]
    return numbers


def _emptied(weight: Floats, inverse: Doubles, groups: NDArray[np.intp], most: int) -> tuple[Doubles, NDArray[np.intp]]:
    """Remove all weights of rows ``[r, k]`` that share a Hessian, but at most ``most`` of each group.

    Returns:
        Costs of the removals and the weights that were removed, in their order, ``[r, k]``. The cost is infinite once
        no weight may be removed.
    """
    count, k = weight.shape
    work = weight.astype(np.float64)
    inverses = np.repeat(inverse[None], count, axis=0)  # [r, k, k]
    cost, order = np.full(weight.shape, np.inf), np.zeros(weight.shape, np.intp)
    left = np.ones(weight.shape, np.bool_)
    removed = np.zeros((count, int(groups.max()) + 1), np.intp)
    all_rows = np.arange(count)
    for step in range(min(k, most * removed.shape[1])):
        diagonal = np.where(left, np.einsum("rkk->rk", inverses), 1.0)
        allowed = left & (removed[:, groups] < most)
        price = np.where(allowed, np.square(work) / diagonal, np.inf)
        chosen = price.argmin(axis=1)
        cost[:, step], order[:, step] = price[all_rows, chosen], chosen
        column = inverses[all_rows, :, chosen]  # [r, k]
        pivot = diagonal[all_rows, chosen]
        work -= (work[all_rows, chosen] / pivot)[:, None] * column
        left[all_rows, chosen] = False
        removed[all_rows, groups[chosen]] += 1
        inverses -= column[:, :, None] * (column / pivot[:, None])[:, None, :]
    return cost, order
