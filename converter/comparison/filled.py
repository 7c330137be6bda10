"""Tensors whose channels were filled up to whole blocks (`passes.graph.integer_forms.filled_blocks`)."""

from typing import Any

from numpy.typing import NDArray

from passes.numerics.kernel_times import BLOCK

__all__ = ["without_filled_channels"]


def without_filled_channels(reference: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return ``other`` [n, c', ...] with the channels of ``reference`` [n, c, ...], if c' is c filled up to 16.

    Everything else is returned as it is.
    """
    if min(reference.ndim, other.ndim) < 2:
        return other
    channels = reference.shape[1]
    filled = (reference.shape[0], -(-channels // BLOCK) * BLOCK, *reference.shape[2:])
    return other[:, :channels] if other.shape == filled else other
