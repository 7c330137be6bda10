"""Windows of images as rows of a matrix (im2col), at some of the output positions.

Only what the windows hold is read: neither the image nor its pads are copied. So the cost grows with the number of
positions, not with the size of the images.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Floats

__all__ = ["Window", "im2col"]


@dataclass(frozen=True)
class Window:
    """The windows of a convolution. Each field has one entry per spatial axis.

    Attributes:
        kernel: Number of taps.
        strides: Distance between windows.
        dilations: Distance between taps.
        begins: Pads before the image. They are negative if the image is cropped.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]


def im2col(images: Floats, positions: NDArray[np.intp], shape: tuple[int, ...], window: Window, groups: int) -> Floats:
    """Return the windows as rows ``[g, n p, c/g taps]``. Outside of the image are zeros.

    Args:
        images: ``[n, c, *spatial]``.
        positions: Output positions that are taken of each image, as flat indices, ``[n, p]``.
        shape: Output positions along every spatial axis.
        window: The windows.
        groups: Number g of groups of channels.
    """
    taps = np.indices(window.kernel).reshape(len(window.kernel), -1)  # [axes, taps]
    flat = np.zeros((*positions.shape, taps.shape[1]), np.intp)  # [n, p, taps]
    inside = np.ones(flat.shape, np.bool_)
    for axis, (size, place) in enumerate(zip(images.shape[2:], np.unravel_index(positions, shape), strict=True)):
        tap = taps[axis] * window.dilations[axis] - window.begins[axis]
        index = place[..., None] * window.strides[axis] + tap
        inside &= (index >= 0) & (index < size)
        flat = flat * size + np.clip(index, 0, size - 1)
    count, channels = images.shape[:2]
    values = images.reshape(count, channels, math.prod(images.shape[2:]))
    rows = np.empty((groups, *positions.shape, channels // groups, taps.shape[1]), np.float32)
    for number, (value, index, within) in enumerate(zip(values, flat, inside, strict=True)):
        found = value.take(index, axis=1, mode="clip")  # [c, p, taps]
        if not within.all():
            found[:, ~within] = 0
        rows[:, number] = found.reshape(groups, channels // groups, *index.shape).swapaxes(1, 2)
    return rows.reshape(groups, positions.size, -1)
