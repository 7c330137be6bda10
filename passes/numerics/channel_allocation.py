"""How many channels each group keeps: the least error for a cost of the whole network, chosen greedily.

A layer reads channels of one group and writes those of another. Its cost is a part that stays, and a part that grows
with the product of the shares of both that are kept:

    C = Σ_l fixed_l + moving_l r_in(l) r_out(l)

The errors of groups are added up. From all channels, the group and the number of channels are taken that lose least for
what they save, again and again until the cost is small enough. Every number is a candidate, not only the next smaller
one, because costs and errors come in steps. Then channels that turned out not to be needed come back, as long as the
cost allows it. An exact solution as for bits (`passes.numerics.allocation`) needs costs that add up over groups, and
products do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LayerCosts", "NoShares", "allocate_channels"]

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]


class NoShares(Exception):
    """No choice costs as little as was asked for. The argument is the least possible cost."""


@dataclass(frozen=True)
class LayerCosts:
    """Costs of l layers, in any unit.

    Attributes:
        fixed: The part of each that stays, ``[l]``.
        moving: The part that grows with the channels, ``[l]``: its value with all channels.
        reads: Group whose channels each layer reads, ``[l]``, or -1 if these cannot go.
        writes: Group whose channels each layer writes, ``[l]``, or -1. A depthwise layer reads -1: it grows with its
            channels, not with their square.
    """

    fixed: Doubles
    moving: Doubles
    reads: Indices
    writes: Indices

    def total(self, kept: Doubles) -> float:
        """Return the cost of the network if these shares of the groups ``[g]`` are kept."""
        shares = np.append(kept, 1.0)  # index -1
        return float((self.fixed + self.moving * shares[self.reads] * shares[self.writes]).sum())


def allocate_channels(kept: Sequence[Doubles], errors: Sequence[Doubles], costs: LayerCosts, most: float) -> list[int]:
    """Return the index of the choice of each group.

    Args:
        kept: Shares of channels that are kept ``[c]`` by each choice of a group. The first is 1.
        errors: Error of each choice ``[c]``, for each group. The first is 0.
        costs: What the layers cost.
        most: Largest cost of the network.

    Raises:
        NoShares: No choice costs as little.
    """
    groups = len(kept)
    chosen = [0] * groups
    # An error that falls with fewer channels is chance. It counts as that of more channels.
    rising = [np.maximum.accumulate(each) for each in errors]
    shares = np.ones(groups)
    cost = costs.total(shares)
    while cost > most:
        best: tuple[float, int, int, float] | None = None
        for group in range(groups):
            for choice in range(chosen[group] + 1, len(kept[group])):
                tried = _with(shares, group, kept[group][choice])
                found = costs.total(tried)
                saved = cost - max(found, most)  # what is saved beyond the need is worth nothing
                if saved <= 0:
                    continue
                price = (rising[group][choice] - rising[group][chosen[group]]) / saved
                if best is None or price < best[0]:
                    best = (price, group, choice, found)
        if best is None:
            least = costs.total(np.array([each.min() for each in kept]))
            raise NoShares(least)
        _, group, choice, cost = best
        chosen[group] = choice
        shares = _with(shares, group, kept[group][choice])
    return _returned(kept, rising, costs, most, chosen)


def _returned(
    kept: Sequence[Doubles], errors: Sequence[Doubles], costs: LayerCosts, most: float, chosen: list[int]
) -> list[int]:
    """Give channels back, most error first, as long as the cost allows it."""
    chosen = list(chosen)
    while True:
        shares = np.array([each[choice] for each, choice in zip(kept, chosen, strict=True)])
        gains = [
            (errors[group][chosen[group]] - errors[group][choice], group, choice)
            for group in range(len(kept))
            for choice in range(chosen[group])
            if costs.total(_with(shares, group, kept[group][choice])) <= most
        ]
        gain, group, choice = max(gains, default=(0.0, 0, 0))
        if gain <= 0:
            return chosen
        chosen[group] = choice


def _with(shares: Doubles, group: int, share: float) -> Doubles:
    changed = shares.copy()
    changed[group] = share
    return changed
