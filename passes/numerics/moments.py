"""Streaming second moments of a layer's inputs. Memory does not grow with the number of images.

With rows ``X`` of the float network and ``X̂`` of the quantized one, both ``[g, n, k]``:

    hessian  = 2/n X̂ᵀX̂        the Hessian of the layer's squared output error (Frantar et al. 2022, GPTQ, §3)
    cross    = 2/n (X - X̂)ᵀX̂  from the errors of the layers before
    residual = 2/n (S - Ŝ)ᵀX̂  from the errors of a tensor S ``[g, n, o]`` that is added to the layer's output
    mean, mean_quantized       E[X], E[X̂], for the bias; mean_residual is E[S - Ŝ]

If |E[X̂]| is 100 times the spread of X̂, the variance is 1/10,000 of X̂ᵀX̂, and float32 loses it. So the accumulator
can sum X̂ - c instead, where c is the mean of its first batch. `Moments.about` moves the sums to another origin
(shifted data; Chan, Golub & LeVeque 1983, §3).
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from passes.numerics.grid import Floats

__all__ = ["Moments", "MomentsAccumulator"]

_CHUNK = 1 << 16  # values that are added together; they stay in the processor's cache

_TILE = 256  # rows and columns of a matrix that is transposed at a time; both parts stay in the processor's cache


@dataclass(frozen=True)
class Moments:
    """Moments of a layer's inputs, which the solvers of layers need. There are g groups of k inputs.

    Attributes:
        hessian: ``[g, k, k]``.
        cross: ``[g, k, k]``, or None if both networks have the same inputs.
        mean: Mean of the float network's rows, ``[g, k]``.
        mean_quantized: Mean of the quantized network's rows, ``[g, k]``.
        rows: Number n of rows.
        residual: ``[g, o, k]``, or None if nothing is added to the layer's output.
        mean_residual: ``[g, o]``, given with `residual`.
        halves: Moments of two disjoint sets of the images, or None if they were not separated.
        origin: What is subtracted from X̂ in `hessian`, `cross` and `residual`, ``[g, k]``. None: nothing.
    """

    hessian: Floats
    cross: Floats | None
    mean: Floats
    mean_quantized: Floats
    rows: int
    residual: Floats | None = None
    mean_residual: Floats | None = None
    halves: "tuple[Moments, Moments] | None" = None
    origin: Floats | None = None

    def centered(self, *, copy: bool = True) -> "Moments":
        """Return the moments about the means: they give the error that is left once the bias has corrected its mean.

        Without ``copy``, the arrays of these moments are changed.
        """
        halves = None if self.halves is None else (self.halves[0].centered(), self.halves[1].centered())
        own = self if self.origin is self.mean_quantized else self.about(self.mean_quantized, copy=copy)
        return replace(own, halves=halves)

    def about(self, origin: Floats | None, *, copy: bool = True) -> "Moments":
        """Return the moments about another origin ``[g, k]``, or about zero for None.

        With δ the mean of the rows about the old origin and ε about the new one, X̂ᵀX̂ / n changes by εεᵀ - δδᵀ.
        Without ``copy``, the arrays of these moments are changed, but not those of `halves`.
        """
        old = np.zeros_like(self.mean_quantized) if self.origin is None else self.origin
        new = np.zeros_like(self.mean_quantized) if origin is None else origin
        before, after, shift = self.mean_quantized - old, self.mean_quantized - new, new - old  # [g, k]

        def own(matrix: Floats) -> Floats:
            return matrix.copy() if copy else matrix

        hessian = _plus_outer(_plus_outer(own(self.hessian), 2, after, after), -2, before, before)
        cross, residual = self.cross, self.residual
        if cross is not None:
            cross = _plus_outer(own(cross), -2, self.mean - self.mean_quantized, shift)
        if residual is not None and self.mean_residual is not None:
            residual = _plus_outer(own(residual), -2, self.mean_residual, shift)
        return replace(
            self,
            hessian=hessian,
            cross=cross,
            residual=residual,
            halves=None if self.halves is None else (self.halves[0].about(origin), self.halves[1].about(origin)),
            origin=origin,
        )

    def rescaled(self, factors: NDArray[np.float64]) -> "Moments":
        """Return the moments of inputs times ``factors`` ``[g, k]``: H' = S H S, and likewise for the others."""
        own = factors.astype(np.float32)
        both = own[:, :, None] * own[:, None, :]
        return Moments(
            hessian=self.hessian * both,
            cross=None if self.cross is None else self.cross * both,
            mean=self.mean * own,
            mean_quantized=self.mean_quantized * own,
            rows=self.rows,
            residual=None if self.residual is None else self.residual * own[:, None, :],
            mean_residual=self.mean_residual,
            halves=None
            if self.halves is None
            else (self.halves[0].rescaled(factors), self.halves[1].rescaled(factors)),
            origin=None if self.origin is None else self.origin * own,
        )

    @classmethod
    def joined(cls, first: "Moments", second: "Moments") -> "Moments":
        """Return the moments of both sets of rows together, with the two sets as `halves`."""
        share = np.float32(first.rows / (first.rows + second.rows))
        halves = (first, second)
        first, second = (first, second.about(None)) if first.origin is None else (first.centered(), second.centered())

        def mean(one: Floats, other: Floats) -> Floats:
            result = share * one
            if one.ndim == 2:
                return result + (1 - share) * other
            step = max(1, _CHUNK // max(1, one.shape[2]))
            for group, start in itertools.product(range(len(one)), range(0, one.shape[1], step)):
                part = np.s_[group, start : start + step]  # so that no second matrix of this size is made
                result[part] += (1 - share) * other[part]
            return result

        def mean_if_any(one: Floats | None, other: Floats | None) -> Floats | None:
            return None if one is None or other is None else mean(one, other)

        joined = cls(
            hessian=mean(first.hessian, second.hessian),
            cross=mean_if_any(first.cross, second.cross),
            mean=mean(first.mean, second.mean),
            mean_quantized=mean(first.mean_quantized, second.mean_quantized),
            rows=first.rows + second.rows,
            residual=mean_if_any(first.residual, second.residual),
            mean_residual=mean_if_any(first.mean_residual, second.mean_residual),
            halves=halves,
        )
        if first.origin is None:
            return joined
        # Each half is about its own mean. The sums are brought to the mean of both (Chan, Golub & LeVeque 1983, §2).
        gap, factor = second.mean_quantized - first.mean_quantized, float(2 * share * (1 - share))
        _plus_outer(joined.hessian, factor, gap, gap)
        if joined.cross is not None:
            errors = first.mean - first.mean_quantized - (second.mean - second.mean_quantized)
            _plus_outer(joined.cross, -factor, errors, gap)
        if joined.residual is not None and first.mean_residual is not None and second.mean_residual is not None:
            _plus_outer(joined.residual, -factor, first.mean_residual - second.mean_residual, gap)
        return replace(joined, origin=joined.mean_quantized)

    @classmethod
    def pooled(cls, first: "Moments", other: "Moments") -> "Moments":
        """Return the moments of both sets of rows together, as inputs of one weight that two layers read.

        ``other`` may lack cross moments and residuals. Its rows then count as rows without errors before them.
        """
        halves = None
        if first.halves is not None and other.halves is not None:
            halves = (cls.pooled(first.halves[0], other.halves[0]), cls.pooled(first.halves[1], other.halves[1]))
        zeros = {
            name: np.zeros_like(value)
            for name in ("cross", "residual", "mean_residual")
            if (value := getattr(first, name)) is not None and getattr(other, name) is None
        }
        return replace(cls.joined(first, replace(other, **zeros)), halves=halves)

    @property
    def has_errors(self) -> bool:
        """Whether the layers before, or a tensor that is added to the output, have errors."""
        return self.cross is not None or self.residual is not None

    @property
    def diagonal(self) -> Floats:
        """Twice the mean square of every input, ``[g, k]``."""
        diagonal: Floats = np.einsum("gkk->gk", self.hessian)
        return diagonal


class MomentsAccumulator:
    """Sums moments over batches of rows ``[g, n, k]``. `moments` returns the result.

    Args:
        groups: Number g of groups.
        k: Number of inputs per group.
        cross: Whether `update` gets rows of both networks.
        shifted: Whether to sum about the mean of the first batch.

    Attributes:
        rows: Number of rows added so far.
    """

    def __init__(self, groups: int, k: int, *, cross: bool, shifted: bool = False) -> None:
        self.rows = 0
        self._origin: Floats | None = None
        self._shifted = shifted
        self._hessian = np.zeros((groups, k, k), np.float32)  # only its upper triangle
        self._cross = np.zeros((groups, k, k), np.float32) if cross else None
        self._residual: Floats | None = None
        self._sum_residual: NDArray[np.float64] | None = None
        self._sum_difference = np.zeros((groups, k), np.float64)
        self._sum_quantized = np.zeros((groups, k), np.float64)

    def update(self, quantized: Floats, difference: Floats | None = None, residual: Floats | None = None) -> None:
        """Add a batch of rows.

        Args:
            quantized: X̂, ``[g, n, k]``.
            difference: ``X - X̂`` ``[g, n, k]``, for cross moments.
            residual: ``S - Ŝ`` ``[g, n, o]``, if a tensor is added to the layer's output.
        """
        if not quantized.shape[1]:
            return
        self.rows += quantized.shape[1]
        if self._shifted and self._origin is None:
            self._origin = quantized.mean(axis=1, dtype=np.float64).astype(np.float32)
        if self._origin is None:
            self._sum_quantized += quantized.sum(axis=1, dtype=np.float64)
        else:  # what varies is small, so that float32 is enough for the sums of one batch
            quantized = quantized - self._origin[:, None, :]
            self._sum_quantized += _sum_of(quantized)
        # BLAS adds in place, and only one half of the symmetric sum. At k = 4,608 allocating a separate product would
        # take longer than its arithmetic.
        for group, rows in enumerate(quantized):
            blas.ssyrk(1, rows.T, beta=1, c=self._hessian[group].T, lower=1, overwrite_c=1)
        if self._cross is not None and difference is not None:
            self._sum_difference += _sum_of(difference)
            _add_products(self._cross, difference, quantized)
        if residual is not None:
            groups, _, outputs = residual.shape
            if self._residual is None or self._sum_residual is None:
                self._residual = np.zeros((groups, outputs, quantized.shape[2]), np.float32)
                self._sum_residual = np.zeros((groups, outputs), np.float64)
            self._sum_residual += residual.sum(axis=1, dtype=np.float64)
            _add_products(self._residual, residual, quantized)

    def moments(self) -> Moments:
        """Return the moments of all batches so far. Shifted ones are about their own mean.

        Raises:
            ValueError: No rows were added.
        """
        if not self.rows:
            raise ValueError("no rows were collected")
        factor = np.float32(2 / self.rows)
        mean_quantized = self._sum_quantized / self.rows
        if self._origin is not None:
            mean_quantized += self._origin
        moments = Moments(
            hessian=_mirrored(self._hessian * factor),
            cross=None if self._cross is None else self._cross * factor,
            mean=(mean_quantized + self._sum_difference / self.rows).astype(np.float32),
            mean_quantized=mean_quantized.astype(np.float32),
            rows=self.rows,
            residual=None if self._residual is None else self._residual * factor,
            mean_residual=None if self._sum_residual is None else (self._sum_residual / self.rows).astype(np.float32),
            origin=self._origin,
        )
        return moments if self._origin is None else moments.centered(copy=False)


def _sum_of(rows: Floats) -> Floats:
    """Return the sum ``[g, k]`` of rows ``[g, n, k]``. A product is faster than a sum over rows of few inputs."""
    total: Floats = np.ones(rows.shape[1], np.float32) @ rows
    return total


def _add_products(total: Floats, left: Floats, right: Floats) -> None:
    """Add ``leftᵀ right`` to ``total`` ``[g, i, k]`` in place. They are ``[g, n, i]`` and ``[g, n, k]``."""
    for group, rows in enumerate(right):
        blas.sgemm(1, rows.T, left[group].T, 1, total[group].T, trans_b=1, overwrite_c=1)


def _plus_outer(matrix: Floats, factor: float, left: Floats, right: Floats) -> Floats:
    """Add ``factor left rightᵀ`` to ``matrix`` ``[g, i, k]`` in place, and return it.

    Args:
        matrix: C-contiguous.
        factor: Factor of the product.
        left: ``[g, i]``.
        right: ``[g, k]``.
    """
    if len(matrix) > 1:
        matrix += (factor * left)[:, :, None] * right[:, None, :]
    elif left.any() and right.any():
        blas.sger(factor, right[0], left[0], a=matrix[0].T, overwrite_a=1)
    return matrix


def _mirrored(matrix: Floats) -> Floats:
    """Copy the upper triangle of each of ``matrix`` ``[g, k, k]`` to the lower one in place, and return it."""
    k = matrix.shape[1]
    for start in range(0, k, _TILE):
        stop = min(start + _TILE, k)
        corner = np.triu(matrix[:, start:stop, start:stop])
        matrix[:, start:stop, start:stop] = corner + np.triu(corner, 1).transpose(0, 2, 1)
        matrix[:, stop:, start:stop] = matrix[:, start:stop, stop:].transpose(0, 2, 1)
    return matrix
