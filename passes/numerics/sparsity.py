"""Which weights may be removed: a share of a layer's weights, or all but n of every m inputs."""

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Floats

__all__ = ["Mask", "Pruned", "Sparsity", "largest", "parse_pattern", "strongest_of_groups"]

Mask = NDArray[np.bool_]

_PATTERN = re.compile(r"([0-9]+):([0-9]+)")


def parse_pattern(pattern: str) -> tuple[int, int] | None:
    """Return n and m of an n:m pattern such as "2:4", which keeps 2 of every 4 weights. None for "unstructured".

    Raises:
        ValueError: The pattern is of neither form, or n is not below m.
    """
    if pattern == "unstructured":
        return None
    found = _PATTERN.fullmatch(pattern)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(
            f'pattern must be "unstructured", or n:m with 0 < n < m, such as "2:4" (2 of every 4 weights stay), not '
            f"{pattern!r}"
        )
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class Pruned:
    """What was removed from the weight of a layer.

    Attributes:
        kept: Weights that were not removed, ``[g, o, k]``.
        pattern: Pattern of the removal: "unstructured", or n:m such as "2:4".
    """

    kept: Mask
    pattern: str


@dataclass(frozen=True)
class Sparsity:
    """The weights of one layer that are to be removed, before they are chosen.

    Attributes:
        share: Share of the weights that are removed, 0 to below 1. With `groups`, n:m determines it.
        groups: n and m: of every m neighbouring inputs of an output, n are kept. None: any weights are removed.
        order: The inputs ``[k]`` in the order in which they are neighbours. None: in their own order.

    Raises:
        ValueError: ``share`` is out of range.
    """

    share: float
    groups: tuple[int, int] | None = None
    order: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be at least 0 and below 1, not {self.share}")

    def softened(self, spared: float) -> "Sparsity":
        """Return the same with less to remove: ``spared`` is the share of the removals that are put off.

        Groups stay whole.
        """
        return self if self.groups is not None else replace(self, share=self.share * (1 - spared))

    def removed(self, size: int) -> int:
        """Return how many of ``size`` weights are removed."""
        return round(self.share * size)

    def neighbours(self, k: int) -> NDArray[np.intp]:
        """Return the inputs in the order in which they are neighbours, ``[k]``.

        Raises:
            ValueError: The groups do not divide k inputs.
        """
        if self.groups is not None and k % self.groups[1]:
            raise ValueError(f"{k} inputs cannot be cut into groups of {self.groups[1]}")
        return np.arange(k) if self.order is None else self.order

    def strongest(self, score: Floats) -> Mask:
        """Return the weights to keep, ``[g, o, k]``: those of the largest score.

        Without groups, the weights of all outputs compete. With groups, those of one group do.
        """
        if self.groups is None:
            return largest(score, score.size - self.removed(score.size))
        order = self.neighbours(score.shape[2])
        kept = np.empty(score.shape, np.bool_)
        kept[:, :, order] = strongest_of_groups(score[:, :, order], *self.groups)
        return kept


def largest(score: Floats, count: int) -> Mask:
    """Return a mask of the ``count`` largest entries of an array of any shape."""
    mask = np.zeros(score.size, np.bool_)
    if count:
        mask[np.argpartition(score.ravel(), score.size - count)[score.size - count :]] = True
    return mask.reshape(score.shape)


def strongest_of_groups(score: Floats, n: int, m: int) -> Mask:
    """Return a mask of the n largest entries of every m neighbours along the last axis, whose length m divides."""
    groups = score.reshape(*score.shape[:-1], -1, m)
    places = groups.argsort(axis=-1, kind="stable")[..., m - n :]
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, places, True, axis=-1)
    return mask.reshape(score.shape)
