"""The calibration images that judge what is learned: other passes must not see them, or they favour their codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.data import Dataset
from converter.recipe import Pass
from passes.learned_rounding import LearnedRounding

__all__ = ["HeldOut", "hold_out", "without_held_out"]


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


def without_held_out(data: Dataset | None, passes: Sequence[Pass], seed: int) -> Dataset | None:
    """The images for passes that do not learn: all but those that a learning pass will judge on."""
    for step in passes:
        if isinstance(step, LearnedRounding) and data is not None:
            return data.select(hold_out(len(data), step.held_out, seed).train)
    return data
