"""Held-out images, which judge a learning pass. Other passes must not see them: they would favour the old codes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeldOut", "hold_out"]


@dataclass(frozen=True)
class HeldOut:
    """Split of the images. Indices are in ascending order.

    Attributes:
        train: Indices of the images to learn from.
        judge: Indices of the images to judge on.
    """

    train: NDArray[np.intp]
    judge: NDArray[np.intp]


def hold_out(images: int, share: float, seed: int) -> HeldOut:
    """Hold out a random share of the images, at least one and never all. The same seed gives the same images."""
    order = np.random.default_rng(seed).permutation(images)
    count = min(max(1, round(images * share)), images - 1)
    return HeldOut(np.sort(order[count:]), np.sort(order[:count]))
