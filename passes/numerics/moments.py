"""Second moments of a layer's inputs, streamed: memory does not grow with the number of images.

With rows ``X`` of the float network and ``X̂`` of the quantized one, both ``[g, n, k]``:

    hessian = 2/n X̂ᵀX̂        the Hessian of the layer's squared output error (Frantar et al. 2022, GPTQ, §3)
    cross   = 2/n (X - X̂)ᵀX̂  what the predecessors' errors leave to be made up for
    mean, mean_quantized      E[X], E[X̂], for the bias
"""

from dataclasses import dataclass

import numpy as np

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
    """

    hessian: Floats
    cross: Floats | None
    mean: Floats
    mean_quantized: Floats
    rows: int

    @property
    def diagonal(self) -> Floats:
        """Mean square of every input, twice: ``[g, k]``."""
        return np.einsum("gkk->gk", self.hessian)


class MomentsAccumulator:
    """Adds batches of rows; `moments` gives the result."""

    def __init__(self, groups: int, k: int, *, cross: bool) -> None:
        self.rows = 0
        self._hessian = np.zeros((groups, k, k), np.float32)
        self._cross = np.zeros((groups, k, k), np.float32) if cross else None
        self._sum = np.zeros((groups, k), np.float64)
        self._sum_quantized = np.zeros((groups, k), np.float64)

    def update(self, quantized: Floats, difference: Floats | None = None) -> None:
        """Add rows X̂ ``[g, n, k]`` and, with cross moments, ``X - X̂`` of the same shape."""
        total = quantized.sum(axis=1, dtype=np.float64)
        self._sum_quantized += total
        self._sum += total
        self.rows += quantized.shape[1]
        transposed = quantized.transpose(0, 2, 1)
        if quantized.shape[0] == 1:
            self._hessian[0] += quantized[0].T @ quantized[0]  # the same array twice: BLAS syrk, half the work
        else:
            self._hessian += transposed @ quantized
        if self._cross is not None and difference is not None:
            self._sum += difference.sum(axis=1, dtype=np.float64)
            self._cross += difference.transpose(0, 2, 1) @ quantized

    def moments(self) -> Moments:
        """The moments of everything added so far.

        Raises:
            ValueError: nothing was added.
        """
        if not self.rows:
            raise ValueError("no rows were collected")
        factor = np.float32(2 / self.rows)
        return Moments(
            hessian=self._hessian * factor,
            cross=None if self._cross is None else self._cross * factor,
            mean=(self._sum / self.rows).astype(np.float32),
            mean_quantized=(self._sum_quantized / self.rows).astype(np.float32),
            rows=self.rows,
        )
