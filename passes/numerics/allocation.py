"""Choose one option for every item, so that one total is smallest while another stays within a limit.

This is the multiple-choice knapsack problem (Kellerer, Pferschy & Pisinger 2004, ch. 11). With c_l the choice of item
l, it reads

    min Σ a_l(c_l)    subject to    Σ b_l(c_l) ≤ limit

It is solved exactly, by dynamic programming over the Pareto front of the two totals. For any λ ≥ 0

    Σ a_l(c_l) ≥ Σ min_c (a_l(c) + λ b_l(c)) - λ limit

This bound removes every partial solution that cannot beat a known solution. Few are left at the λ that makes the right
side largest. The items are layers, the choices are bits of their weights, and the two totals are bytes and noise, as in
Hubara et al. 2021 (arXiv 2006.10518), §4.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoAllocation", "allocate"]

Doubles = NDArray[np.float64]
Choices = NDArray[np.intp]

_HALVINGS = 100  # how often the bracket of λ is halved
_SLACK = 1e-9  # relative tolerance of a bound, for rounding errors


class NoAllocation(ValueError):
    """No combination of choices stays within the limit."""


def allocate(objective: Doubles, limited: Doubles, limit: float) -> Choices:
    """Choose for every item, so that the total ``objective`` is smallest and the total ``limited`` within ``limit``.

    Args:
        objective: Cost of each choice of each item, ``[l, c]``, not negative. inf forbids a choice.
        limited: Use of the limited resource, ``[l, c]``, not negative. inf forbids a choice.
        limit: Largest allowed total of ``limited``.

    Returns:
        The index of each item's choice, ``[l]``.

    Raises:
        NoAllocation: Even the smallest total of ``limited`` is above the limit.
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
    """Return the smallest allowed use ``[l]`` of the limited resource by each item."""
    least: Doubles = np.where(np.isfinite(objective), limited, np.inf).min(axis=1)
    return least


def _priced(objective: Doubles, limited: Doubles, limit: float) -> tuple[float, Choices]:
    """Return λ and the choices ``[l]`` that are best at it and within the limit. λ is 0 if the limit does not bind."""

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
    """Change one choice after the other for the better, as long as the limit allows it."""
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
    """Return the best choices, which are at least as good as ``known``."""
    reduced = (objective + price * limited).min(axis=1)
    ahead = np.append(np.cumsum(reduced[::-1])[::-1], 0.0)  # sum over this item and those after it
    needed = np.append(np.cumsum(_least(objective, limited)[::-1])[::-1], 0.0)
    best = _total(objective, known) * (1 + _SLACK)
    spent, value, steps = np.zeros(1), np.zeros(1), []
    for item in range(len(objective)):
        totals = (spent[:, None] + limited[item]).ravel()  # [states c]
        values = (value[:, None] + objective[item]).ravel()
        fits = totals + needed[item + 1] <= limit
        fits &= values + price * (totals - limit) + ahead[item + 1] <= best
        survivors = np.flatnonzero(fits)
        survivors = survivors[np.lexsort((values[survivors], totals[survivors]))]
        lowest = np.minimum.accumulate(np.append(np.inf, values[survivors][:-1]))
        survivors = survivors[values[survivors] < lowest]
        if not len(survivors):
            return known  # it reaches the bound up to rounding errors
        spent, value = totals[survivors], values[survivors]
        steps.append(np.divmod(survivors, objective.shape[1]))
    state, chosen = int(value.argmin()), np.empty(len(objective), np.intp)
    for item in range(len(objective) - 1, -1, -1):
        parents, choices = steps[item]
        chosen[item] = choices[state]
        state = int(parents[state])
    return chosen if _total(objective, chosen) <= _total(objective, known) else known
