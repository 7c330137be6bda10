"""Which of its choices each item takes, so that one total is least while another stays within a limit.

The multiple-choice knapsack problem: with x_lc = 1 where item l takes choice c,

    min Σ a_lc x_lc    subject to    Σ b_lc x_lc ≤ limit,    Σ_c x_lc = 1 for every l

solved exactly as an integer linear programme by HiGHS (Huangfu & Hall 2018). Layers are items here, bits of their
weights the choices, and bytes and noise the two totals, as in Hubara et al. 2021 (arXiv 2006.10518), §4.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

__all__ = ["NoAllocation", "allocate"]

Doubles = NDArray[np.float64]

_OBJECTIVE = 1e4  # what the least objective is scaled to; HiGHS stops at an absolute gap of 1e-6


class NoAllocation(ValueError):
    """No combination of choices stays within the limit."""


def allocate(objective: Doubles, limited: Doubles, limit: float) -> NDArray[np.intp]:
    """The choice of every item ``[l]`` with the least total ``objective`` whose total ``limited`` is at most ``limit``.

    Args:
        objective: ``[l, c]``, not negative; inf forbids a choice.
        limited: ``[l, c]``, the same.
        limit: of the total.

    Raises:
        NoAllocation: even the smallest total is above the limit.
    """
    allowed = np.isfinite(objective) & np.isfinite(limited)
    smallest = float(np.where(allowed, limited, np.inf).min(axis=1).sum())
    if not smallest <= limit:
        raise NoAllocation(f"the smallest total is {smallest:g}, the limit {limit:g}")
    items, choices = objective.shape
    taken = sparse.kron(sparse.eye_array(items), np.ones((1, choices)))  # [l, l c]
    weights = np.where(allowed, limited, 0.0).ravel()
    unit = limit if limit > 0 else 1.0
    least = float(np.where(allowed, objective, np.inf).min(axis=1).sum())
    found = milp(
        np.where(allowed, objective, 0.0).ravel() * (_OBJECTIVE / least if least > 0 else 1.0),
        constraints=[LinearConstraint(taken, 1, 1), LinearConstraint(weights[None] / unit, -np.inf, limit / unit)],
        integrality=np.ones(items * choices),
        bounds=Bounds(0, allowed.ravel().astype(float)),
        options={"mip_rel_gap": 0.0},
    )
    chosen: NDArray[np.intp] = np.asarray(found.x).reshape(items, choices).argmax(axis=1)
    return chosen
