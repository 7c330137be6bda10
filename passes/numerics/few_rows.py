"""GPTQ's damping where a layer has few rows for its inputs: chosen on images it was not fitted to.

A sweep passes each error on to inputs that the Hessian calls correlated. A classifier sees one row an image, so with
256 images and 1,280 inputs most of those correlations are chance: EfficientNet-Lite0's codes came 6 dB closer to the
float scores on the calibration images than on others. With codes fitted to one half of the images the error on the
other half follows from its moments alone, so two-fold cross-validation costs no activation.
"""

from collections.abc import Sequence

import numpy as np

from passes.numerics.gptq import gptq, output_error
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.weight_grid import GridForm

__all__ = ["DAMPINGS", "damping_for_few_rows", "has_few_rows"]

DAMPINGS = (1.0, 10.0, 100.0)
"""Tried, as multiples of the damping asked for."""

_JUDGED = 64  # output channels that the choice looks at


def has_few_rows(moments: Moments) -> bool:
    """Whether the choice is worth its time: fewer rows than inputs, and halves to judge on."""
    return moments.halves is not None and moments.rows < moments.hessian.shape[1]


def damping_for_few_rows(
    target: Floats,
    moments: Moments,
    form: GridForm,
    damping: float,
    *,
    min_scale: Floats | None = None,
    rounds: int = 0,
    factors: Sequence[float] = DAMPINGS,
) -> float:
    """The damping whose codes, fitted to either half of the images, leave the least error on the other.

    The one asked for where no half can be factorised.

    Args:
        target: ``[g, o, k]``, what the codes should approximate.
        moments: with `halves`.
        form, damping, floor, rounds: of `gptq`.
        factors: rising; the search ends where the error rises.

    Raises:
        ValueError: the moments have no halves.
    """
    if moments.halves is None:
        raise ValueError("the moments have no halves")
    every = -(-target.shape[1] // _JUDGED)
    judged = target[:, ::every]
    lowest = None if min_scale is None else min_scale[:, ::every]
    best, least = damping, np.inf
    for candidate in (damping * factor for factor in factors):
        loss = 0.0
        try:
            for fitted, unseen in (moments.halves, moments.halves[::-1]):
                found = gptq(judged, fitted, form, min_scale=lowest, damping=candidate, rounds=rounds)
                loss += output_error(judged, found.grid.values(found.codes), unseen.hessian)
        except np.linalg.LinAlgError:  # of one half alone; a larger damping may do
            continue
        if loss > least:
            break
        best, least = candidate, loss
    return best
