"""Values that a model can take: finite numbers, and masks of an attention."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_usable"]


def is_usable(values: NDArray[Any], *, alone: bool) -> bool:
    """Whether floats are finite. Beside other inputs they may be the mask of an attention: one finite number and -Inf.

    Args:
        values: The floats.
        alone: Whether they are the only input.
    """
    finite = np.isfinite(values)
    if finite.all():
        return True
    return not alone and bool(finite.any() and np.ptp(values[finite]) == 0 and np.isneginf(values[~finite]).all())
