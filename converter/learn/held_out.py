"""The calibration images that judge what is learned: other passes must not see them, or they favour their codes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeldOut", "hold_out"]


@dataclass(frozen=True)
class HeldOut:
    """Indices of the images to learn from and of those to judge on, each rising."""

    train: NDArray[np.intp]
    judge: NDArray[np.intp]


def hold_out(images: int, share: float, seed: int) -> HeldOut:
    """A random ``share`` of the images, at least one and never all; the same seed, the same images."""
    order = np.random.default_rng(seed).permutation(images)
    count = min(max(1, round(images * share)), images - 1)
    return HeldOut(np.sort(order[count:]), np.sort(order[:count]))
