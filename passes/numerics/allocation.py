"""Which of its choices each item takes, so that one total is least while another stays within a limit.

The multiple-choice knapsack problem (Kellerer, Pferschy & Pisinger 2004, ch. 11): with c_l the choice of item l,

    min Σ a_l(c_l)    subject to    Σ b_l(c_l) ≤ limit

solved exactly, by dynamic programming over the pairs of totals that no other pair beats in both. For any λ ≥ 0

    Σ a_l(c_l) ≥ Σ min_c (a_l(c) + λ b_l(c)) - λ limit

so pairs that cannot lead below a solution that is known are dropped; at the λ that makes the right side largest few are
left. Layers are items here, bits of their weights the choices, bytes and noise the two totals, as in Hubara et al. 2021
(arXiv 2006.10518), §4.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoAllocation", "allocate"]

Doubles = NDArray[np.float64]
Choices = NDArray[np.intp]

_HALVINGS = 100  # of λ's bracket
_SLACK = 1e-9  # of the best total, by which rounding may move a bound


class NoAllocation(ValueError):
    """No combination of choices stays within the limit."""


def allocate(objective: Doubles, limited: Doubles, limit: float) -> Choices:
    """The choice of every item ``[l]`` with the least total ``objective`` whose total ``limited`` is at most ``limit``.

    Args:
        objective: ``[l, c]``, not negative; inf forbids a choice.
        limited: ``[l, c]``, the same.
        limit: of the total.

    Raises:
        NoAllocation: even the smallest total is above the limit.
    """
    allowed = np.isfinite(objective) & np.isfinite(limited)
    objective, limited = np.where(allowed, objective, np.inf), np.where(allowed, limited, 0.0)
    smallest = float(_least(objective, limited).sum())
    if not smallest <= limit:
        raise NoAllocation(f"the smallest total is {smallest:g}, the limit {limit:g}")
    price, known = _priced(objective, limited, limit)
    if price == 0:
        return known
    return _searched(objective, limited, limit, price, _improved(objective, limited, limit, known))


def _total(table: Doubles, choices: Choices) -> float:
    return float(np.take_along_axis(table, choices[:, None], axis=1).sum())


def _least(objective: Doubles, limited: Doubles) -> Doubles:
    """The smallest entry ``[l]`` of the limited total that every item may take."""
    least: Doubles = np.where(np.isfinite(objective), limited, np.inf).min(axis=1)
    return least


def _priced(objective: Doubles, limited: Doubles, limit: float) -> tuple[float, Choices]:
    """λ, and the choices ``[l]`` that are best at it and within the limit; λ is 0 where the limit does not bind."""

    def cheapest(price: float) -> Choices:
        choices: Choices = (objective + price * limited).argmin(axis=1)
        return choices

    low, high = 0.0, float(objective[np.isfinite(objective)].max() / max(limit, np.finfo(float).tiny)) + 1e-300
    if _total(limited, cheapest(0.0)) <= limit:
        return 0.0, cheapest(0.0)
    while np.isfinite(high) and _total(limited, cheapest(high)) > limit:
        low, high = high, 2 * high
    if not np.isfinite(high):
        return low, np.where(np.isfinite(objective), limited, np.inf).argmin(axis=1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _total(limited, cheapest(middle)) <= limit else (middle, high)
    return high, cheapest(high)


def _improved(objective: Doubles, limited: Doubles, limit: float, choices: Choices) -> Choices:
    """The choices, single ones changed for the better as long as there is room."""
    choices, rows = choices.copy(), np.arange(len(choices))
    while True:
        room = limit - _total(limited, choices)
        gain = objective[rows, choices][:, None] - objective
        gain = np.where(limited - limited[rows, choices][:, None] <= room, gain, -np.inf)
        item, choice = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[item, choice] <= 0:
            return choices
        choices[item] = choice


def _searched(objective: Doubles, limited: Doubles, limit: float, price: float, known: Choices) -> Choices:
    """The best choices: ``known`` ones, or better."""
    reduced = (objective + price * limited).min(axis=1)
    ahead = np.append(np.cumsum(reduced[::-1])[::-1], 0.0)  # of this item and those after it
    needed = np.append(np.cumsum(_least(objective, limited)[::-1])[::-1], 0.0)
    best = _total(objective, known) * (1 + _SLACK)
    spent, value, steps = np.zeros(1), np.zeros(1), []
    for item in range(len(objective)):
        totals = (spent[:, None] + limited[item]).ravel()  # [states c]
        values = (value[:, None] + objective[item]).ravel()
        fits = totals + needed[item + 1] <= limit
        fits &= values + price * (totals - limit) + ahead[item + 1] <= best
        places = np.flatnonzero(fits)
        places = places[np.lexsort((values[places], totals[places]))]
        lowest = np.minimum.accumulate(np.append(np.inf, values[places][:-1]))
        places = places[values[places] < lowest]
        if not len(places):
            return known  # rounding alone keeps it apart from the bound
        spent, value = totals[places], values[places]
        steps.append(np.divmod(places, objective.shape[1]))
    state, found = int(value.argmin()), np.empty(len(objective), np.intp)
    for item in range(len(objective) - 1, -1, -1):
        parents, choices = steps[item]
        found[item] = choices[state]
        state = int(parents[state])
    return found if _total(objective, found) <= _total(objective, known) else known
