"""Second moments of a layer's inputs, streamed: memory does not grow with the number of images.

With rows ``X`` of the float network and ``X̂`` of the quantized one, both ``[g, n, k]``:

    hessian = 2/n X̂ᵀX̂        the Hessian of the layer's squared output error (Frantar et al. 2022, GPTQ, §3)
    cross   = 2/n (X - X̂)ᵀX̂  what the predecessors' errors leave to be made up for
    residual = 2/n (S - Ŝ)ᵀX̂ the same of a tensor S that is added to the layer's output, ``[g, n, o]``
    mean, mean_quantized      E[X], E[X̂], for the bias; mean_residual is E[S - Ŝ]
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from passes.numerics.grid import Floats

__all__ = ["Moments", "MomentsAccumulator"]


@dataclass(frozen=True)
class Moments:
    """What a layer solver needs of the inputs; g groups of k inputs.

    Attributes:
        hessian: ``[g, k, k]``.
        cross: ``[g, k, k]``, or None where both networks see the same inputs.
        mean: ``[g, k]`` of the float network's rows.
        mean_quantized: ``[g, k]`` of the quantized network's rows.
        rows: how many rows were summed.
        residual: ``[g, o, k]``, or None where nothing is added to the layer's output.
        mean_residual: ``[g, o]``, with `residual`.
        halves: the same of two disjoint sets of images, where they were kept apart.
    """

    hessian: Floats
    cross: Floats | None
    mean: Floats
    mean_quantized: Floats
    rows: int
    residual: Floats | None = None
    mean_residual: Floats | None = None
    halves: "tuple[Moments, Moments] | None" = None

    def centered(self) -> "Moments":
        """The same moments about the means: what is left of the error once the bias has taken up its mean."""
        shift = (self.mean - self.mean_quantized)[:, :, None] * self.mean_quantized[:, None, :]  # [g, k, k]
        residual = self.residual
        if residual is not None and self.mean_residual is not None:
            residual = residual - 2 * self.mean_residual[:, :, None] * self.mean_quantized[:, None, :]
        return Moments(
            hessian=self.hessian - 2 * self.mean_quantized[:, :, None] * self.mean_quantized[:, None, :],
            cross=None if self.cross is None else self.cross - 2 * shift,
            mean=self.mean,
            mean_quantized=self.mean_quantized,
            rows=self.rows,
            residual=residual,
            mean_residual=self.mean_residual,
            halves=None if self.halves is None else (self.halves[0].centered(), self.halves[1].centered()),
        )

    def rescaled(self, factors: NDArray[np.float64]) -> "Moments":
        """The moments of inputs multiplied by ``factors`` ``[g, k]``: H' = S H S, and so for the others."""
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
        )

    @classmethod
    def joined(cls, first: "Moments", second: "Moments") -> "Moments":
        """The moments of both sets of rows, with the two as `halves`."""
        share = np.float32(first.rows / (first.rows + second.rows))

        def mean(one: Floats, other: Floats) -> Floats:
            return share * one + (1 - share) * other

        def mean_if_any(one: Floats | None, other: Floats | None) -> Floats | None:
            return None if one is None or other is None else mean(one, other)

        return cls(
            hessian=mean(first.hessian, second.hessian),
            cross=mean_if_any(first.cross, second.cross),
            mean=mean(first.mean, second.mean),
            mean_quantized=mean(first.mean_quantized, second.mean_quantized),
            rows=first.rows + second.rows,
            residual=mean_if_any(first.residual, second.residual),
            mean_residual=mean_if_any(first.mean_residual, second.mean_residual),
            halves=(first, second),
        )

    @property
    def diagonal(self) -> Floats:
        """Mean square of every input, twice: ``[g, k]``."""
        diagonal: Floats = np.einsum("gkk->gk", self.hessian)
        return diagonal


class MomentsAccumulator:
    """Adds batches of rows; `moments` gives the result."""

    def __init__(self, groups: int, k: int, *, cross: bool) -> None:
        self.rows = 0
        self._hessian = np.zeros((groups, k, k), np.float32)  # its upper triangle
        self._cross = np.zeros((groups, k, k), np.float32) if cross else None
        self._residual: Floats | None = None
        self._sum_residual: NDArray[np.float64] | None = None
        self._sum = np.zeros((groups, k), np.float64)
        self._sum_quantized = np.zeros((groups, k), np.float64)

    def update(self, quantized: Floats, difference: Floats | None = None, residual: Floats | None = None) -> None:
        """Add rows X̂ ``[g, n, k]`` and, with cross moments, ``X - X̂`` of the same shape and ``S - Ŝ`` ``[g, n, o]``."""
        total = quantized.sum(axis=1, dtype=np.float64)
        self._sum_quantized += total
        self._sum += total
        self.rows += quantized.shape[1]
        if self._cross is not None and difference is not None:
            self._sum += difference.sum(axis=1, dtype=np.float64)
        if residual is not None:
            if self._residual is None or self._sum_residual is None:
                groups, _, outputs = residual.shape
                self._residual = np.zeros((groups, outputs, quantized.shape[2]), np.float32)
                self._sum_residual = np.zeros((groups, outputs), np.float64)
            for group, rows in enumerate(quantized):
                blas.sgemm(1, rows.T, residual[group].T, 1, self._residual[group].T, trans_b=1, overwrite_c=1)
            self._sum_residual += residual.sum(axis=1, dtype=np.float64)
        # In place and one half of a symmetric sum: at k = 4,608 a product of its own costs more than its arithmetic.
        for group, rows in enumerate(quantized):
            blas.ssyrk(1, rows.T, beta=1, c=self._hessian[group].T, lower=1, overwrite_c=1)
            if self._cross is not None and difference is not None:
                blas.sgemm(1, rows.T, difference[group].T, 1, self._cross[group].T, trans_b=1, overwrite_c=1)

    def moments(self) -> Moments:
        """The moments of everything added so far.

        Raises:
            ValueError: nothing was added.
        """
        if not self.rows:
            raise ValueError("no rows were collected")
        factor = np.float32(2 / self.rows)
        hessian = self._hessian + self._hessian.transpose(0, 2, 1)  # the other half is zero
        index = np.arange(hessian.shape[1])
        hessian[:, index, index] /= 2
        hessian *= factor
        return Moments(
            hessian=hessian,
            cross=None if self._cross is None else self._cross * factor,
            mean=(self._sum / self.rows).astype(np.float32),
            mean_quantized=(self._sum_quantized / self.rows).astype(np.float32),
            rows=self.rows,
            residual=None if self._residual is None else self._residual * factor,
            mean_residual=None if self._sum_residual is None else (self._sum_residual / self.rows).astype(np.float32),
        )
