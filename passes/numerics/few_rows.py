"""The damping of GPTQ for layers with fewer rows than inputs, chosen by cross-validation.

A sweep passes each error on to inputs that are correlated according to the Hessian. A classifier has one row per image.
With 256 images and 1,280 inputs most of those correlations are chance: EfficientNet-Lite0's codes came 6 dB closer to
the float scores on the calibration images than on others. Codes are fitted to one half of the images. Their error on
the other half follows from its moments alone. So two-fold cross-validation stores no activations.
"""

from collections.abc import Callable, Sequence

import numpy as np

from passes.numerics.gptq import GptqResult, gptq, output_error
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.numerics.weight_grid import GridForm

__all__ = ["DAMPINGS", "damping_for_few_rows", "has_few_rows"]

DAMPINGS = (1.0, 10.0, 100.0)
"""Candidates, as multiples of the given damping."""

_JUDGED = 64  # number of output channels on which the damping is chosen


def has_few_rows(moments: Moments) -> bool:
    """Return whether a layer has fewer rows than inputs, and halves for cross-validation."""
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
    solve: Callable[..., GptqResult] = gptq,
) -> float:
    """Return the damping with the smallest error on held-out samples.

    Codes are fitted to each half of the images and judged on the other half. If no candidate makes both halves positive
    definite, the result is ``damping`` itself.

    Args:
        target: Weight that the codes should approximate, ``[g, o, k]``.
        moments: Moments of the layer's inputs, with `halves`.
        form: Form of the grid.
        damping: λ as a share of the mean of diag H.
        min_scale: Smallest allowed scale, ``[g, o]``.
        rounds: Rounds of refinement after GPTQ's sweep.
        factors: Multiples of ``damping`` to try, in rising order. The search ends when the error rises.
        solve: What finds codes, with the arguments of `passes.numerics.gptq.gptq`.

    Raises:
        ValueError: The moments have no halves.
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
                result = solve(judged, fitted, form, min_scale=lowest, damping=candidate, rounds=rounds)
                loss += output_error(judged, result.grid.values(result.codes), unseen.hessian)
        except np.linalg.LinAlgError:  # the Hessian of one half; a larger damping may help
            continue
        if loss > least:
            break
        best, least = candidate, loss
    return best
