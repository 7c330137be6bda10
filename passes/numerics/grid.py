"""Quantization grids: the real numbers that integer codes of a few bits represent.

A weight grid is affine, ``value = (code - zero_point) * scale`` (Jacob et al. 2018, equation 1). Codes are signed, in
``[-2^(bits-1), 2^(bits-1) - 1]``. Those of 8 bits are in ``[-127, 127]``, so that a sign flip stays on the grid. A
scale serves a whole output channel, or ``block_size`` neighbouring inputs of it. With two levels, each block has a
whole multiple of its channel's scale (`passes.numerics.two_level`).

    >>> grid = Grid(bits=4, scale=np.array([[[0.5]]], np.float32), zero_point=np.array([[[0]]], np.int8))
    >>> grid.codes(np.array([[[0.6, -9.0]]], np.float32))
    array([[[ 1, -8]]], dtype=int8)
    >>> grid.values(np.array([[[1, -8]]], np.int8))
    array([[[ 0.5, -4. ]]], dtype=float32)
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MULTIPLES", "ActivationGrid", "Codes", "Floats", "Grid", "code_range", "dequantized"]

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

MULTIPLES = (-8, 7)
"""Smallest and largest multiple of a channel's scale that a block can have. 0 is not allowed."""


def code_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest signed weight code of ``bits`` bits.

    Raises:
        ValueError: ``bits`` is not in 2..8.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"weight bits must be 2 to 8, not {bits}")
    return (-127, 127) if bits == 8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def dequantized(
    codes: NDArray[Any], scale: Floats, zero_point: NDArray[Any], multiples: NDArray[Any] | None = None
) -> Floats:
    """Dequantize integer codes of any shape, in float32 and in the order of operations of DequantizeLinear."""
    difference = codes.astype(np.int64) - zero_point
    difference = difference if multiples is None else difference * multiples
    values: Floats = (difference.astype(np.float32) * scale).astype(np.float32)
    return values


@dataclass(frozen=True)
class Grid:
    """The grid of one layer's weight ``[g, o, k]``.

    Attributes:
        bits: Bits per code, 2 to 8.
        scale: Scales, ``[g, o, b]`` float32, positive. Each output channel has b of them: 1, or
            ``ceil(k / block_size)``.
        zero_point: Code of 0.0, ``[g, o, b]`` int8. All are zero for a symmetric grid.
        block_size: Number of inputs that share a scale. The last block may be shorter. None: all inputs of a channel
            share one.
        multiples: Integer factors of the channel's one scale in each block, ``[g, o, ceil(k / block_size)]`` int8, in
            `MULTIPLES` and not 0. None: scales are floats.
    """

    bits: int
    scale: Floats
    zero_point: Codes
    block_size: int | None = None
    multiples: Codes | None = None

    @property
    def per_channel(self) -> bool:
        """Whether each output channel has one float scale, which integer kernels need."""
        return self.block_size is None or self.multiples is not None

    @property
    def granularity(self) -> str:
        """Name of the part that shares a scale, such as "channel" or "block 32"."""
        return "channel" if self.block_size is None else f"block {self.block_size}"

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is 0."""
        return not self.zero_point.any()

    def spread(self, k: int) -> tuple[Floats, Codes]:
        """Return scale and zero point of every input, both ``[g, o, k]``. A negative multiple makes the scale negative.

        Raises:
            ValueError: The grid's number of blocks does not fit k inputs.
        """
        if self.multiples is not None:
            return self.scale * self.multiple(k), np.repeat(self.zero_point, k, axis=2)
        block_size = self.block_size or k
        if self.scale.shape[2] != -(-k // block_size):
            raise ValueError(f"{self.scale.shape[2]} scales for {k} inputs in blocks of {block_size}")
        return np.repeat(self.scale, block_size, axis=2)[:, :, :k], np.repeat(self.zero_point, block_size, axis=2)[
            :, :, :k
        ]

    def values(self, codes: Codes) -> Floats:
        """Dequantize ``[g, o, k]`` codes, in float32 and in the order of operations of DequantizeLinear.

        Raises:
            ValueError: The grid's number of blocks does not fit k inputs.
        """
        if self.multiples is not None:
            return dequantized(codes, self.scale, self.zero_point, self.multiple(codes.shape[2]))
        return dequantized(codes, *self.spread(codes.shape[2]))

    def integers(self, codes: Codes) -> Codes:
        """Multiply ``[g, o, k]`` codes by the multiples of their blocks.

        The products represent the same values with one scale per channel.
        """
        return codes if self.multiples is None else codes * self.multiple(codes.shape[2])

    def codes(self, weight: Floats) -> Codes:
        """Round ``[g, o, k]`` weights to the nearest code (ties to even), clipped to the code range.

        Raises:
            ValueError: The grid's number of blocks does not fit k inputs.
        """
        scale, zero = self.spread(weight.shape[2])
        low, high = code_range(self.bits)
        codes: Codes = np.clip(np.rint(weight / scale) + zero, low, high).astype(np.int8)
        return codes

    def multiple(self, k: int) -> Codes:
        """Return the factor of the channel's scale at each of k inputs, ``[g, o, k]``: 1 on a grid without multiples.

        Raises:
            ValueError: The grid's number of blocks does not fit k inputs.
        """
        if self.multiples is None or self.block_size is None:
            return np.ones((*self.scale.shape[:2], k), np.int8)
        if self.multiples.shape[2] != -(-k // self.block_size):
            raise ValueError(f"{self.multiples.shape[2]} multiples for {k} inputs in blocks of {self.block_size}")
        return np.repeat(self.multiples, self.block_size, axis=2)[:, :, :k]


@dataclass(frozen=True)
class ActivationGrid:
    """The per-tensor grid of one activation tensor, of 8 or 16 bits.

    Attributes:
        scale: Step of the grid, positive float32.
        zero_point: Code of 0.0.
        signed: Whether codes are signed (int8: -128..127) rather than unsigned (uint8: 0..255).
        low: Lower end of the calibrated range from which the grid was made.
        high: Upper end of that range.
        bits: Bits of a code, 8 or 16.
    """

    scale: np.float32
    zero_point: int
    signed: bool
    low: float
    high: float
    bits: int = 8

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        first = -(1 << (self.bits - 1)) if self.signed else 0
        return first, first + (1 << self.bits) - 1

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest value on the grid."""
        low, high = self.code_range
        return float((low - self.zero_point) * self.scale), float((high - self.zero_point) * self.scale)

    @property
    def dtype(self) -> type[np.integer[Any]]:
        """Numpy type of the codes."""
        return np.dtype(f"{'int' if self.signed else 'uint'}{self.bits}").type

    @classmethod
    def of(
        cls, low: float, high: float, *, signed: bool = False, symmetric: bool = False, bits: int = 8
    ) -> "ActivationGrid":
        """Make a grid over ``[low, high]``, widened to represent 0.0 exactly.

        A symmetric grid has zero point 0 for signed codes, and for unsigned ones if ``low`` is not negative. Otherwise
        its zero point is the middle: 128 for uint8. If both ends are 0 the step is 1/255, or 1/65535 with 16 bits: any
        step would do, but products with it must not vanish.

        Args:
            low: Lower end of the range.
            high: Upper end of the range.
            signed: Use signed codes rather than unsigned.
            symmetric: Make a symmetric grid.
            bits: Bits of a code, 8 or 16.

        Raises:
            ValueError: low > high, or one of them is not finite, or there is no grid of so many bits.
        """
        if bits not in {8, 16}:
            raise ValueError(f"activations have 8 or 16 bits, not {bits}")
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(f"not a range: {low} to {high}")
        low, high = min(low, 0.0), max(high, 0.0)
        steps, middle = (1 << bits) - 1, 1 << (bits - 1)
        first = -middle if signed else 0
        smallest = float(np.finfo(np.float32).tiny) * 1e6 if low < high else 1 / steps
        if symmetric and signed:
            scale, zero = np.float32(max(max(-low, high) / (middle - 1), smallest)), 0
        elif symmetric:
            scale, zero = np.float32(max(max(-low, high) / (middle - 1), smallest)), middle
            if low == 0:
                scale, zero = np.float32(max(high / steps, smallest)), 0
        else:
            scale = np.float32(max((high - low) / steps, smallest))
            zero = int(np.clip(round(first - low / float(scale)), first, first + steps))
        return cls(scale, zero, signed, low, high, bits)

    @classmethod
    def up_to(cls, most: float) -> "ActivationGrid":
        """Return the uint16 grid from 0 to just below ``most``, whose step is the 65,536th part of it."""
        step = np.float32(most / 2**16)
        return cls(step, 0, False, 0.0, (2**16 - 1) * float(step), 16)

    def scaled(self, factor: float) -> "ActivationGrid":
        """Return the grid of the tensor times a positive ``factor``. The codes stay, and the scale changes."""
        if factor == 1:
            return self
        scale = np.float32(float(self.scale) * factor)
        return replace(self, scale=scale, low=self.low * factor, high=self.high * factor)

    def with_sign(self, signed: bool) -> "ActivationGrid":
        """Return the grid with the same values and signed or unsigned codes. All codes and the zero point move."""
        shift = (1 << (self.bits - 1)) * (int(self.signed) - int(signed))
        return replace(self, zero_point=self.zero_point + shift, signed=signed)

    def widened(self) -> "ActivationGrid":
        """Return the grid of 16 bits that holds every value of this one of 8 bits: codes and zero point times 256."""
        return replace(self, scale=np.float32(self.scale / 256), zero_point=self.zero_point * 256, bits=16)

    def values(self, x: Floats) -> Floats:
        """Quantize and dequantize float32 values of any shape."""
        low, high = self.code_range
        codes = np.clip(np.rint(x / self.scale) + self.zero_point, low, high)
        return np.asarray((codes - self.zero_point) * self.scale, np.float32)
