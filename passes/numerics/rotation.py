"""An orthogonal matrix that flattens the rows of several weights at once.

A scale has to cover a row's largest weight, so the relative rounding error of a row grows with its peak over its root
mean square. A random orthogonal mix of the inputs preserves the mean square, and lowers peaks to about those of
normally distributed values (Ashkboos et al. 2024, QuaRot, arXiv 2404.00456, §3). Descent over orthogonal matrices
lowers them further (Liu et al. 2024, SpinQuant, arXiv 2405.16406, §3.2). The loss here is smooth,

    Σ_weights mean_rows ‖row‖_p² / power,   p = 8,

and each step is a Cayley transform along the skew part S of its gradient. A rotation that keeps the mean of the
channels fixes the vector of ones, and mixes only what is orthogonal to it. So its steps go along ``P S P`` with
``P = I - 1 1ᵀ / n``, which is skew too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import Floats

__all__ = ["Rotated", "flatness", "flattening_rotation", "smooth_peak"]

Doubles = NDArray[np.float64]

_POWER = 8
_MOST_PRODUCTS = 1 << 32  # of numbers, to rotate all weights once in a step; where there would be more, some rows do
_FIRST_STEP = 0.3  # angle in radians of the largest plane rotation in the first step


@dataclass(frozen=True)
class Rotated:
    """A weight that a rotation R changes.

    Attributes:
        weight: ``[o, n]`` if its inputs are rotated (it becomes ``W Rᵀ``), ``[n, k]`` if its outputs are (``R W``).
        outputs: Whether the outputs are rotated rather than the inputs.
    """

    weight: Floats
    outputs: bool

    def by(self, rotation: Floats) -> Floats:
        """Return the weight after the rotation. Each of its rows will have scales of its own."""
        rotated: Floats = rotation @ self.weight if self.outputs else self.weight @ rotation.T
        return rotated


def flatness(weights: Sequence[Rotated], rotation: Floats | None = None) -> float:
    """Return the mean over weights of (mean over rows of peak²) / (mean square). The smallest possible value is 1.

    Args:
        weights: The weights.
        rotation: Matrix by which they are rotated. None: they are not.
    """
    rows = (weight.weight if rotation is None else weight.by(rotation) for weight in weights)
    return float(np.mean([_flatness(each) for each in rows]))


def _flatness(rows: Floats) -> float:
    power = float(np.square(rows).mean())
    return float(np.square(np.abs(rows).max(axis=1)).mean()) / power if power > 0 else 1.0


def flattening_rotation(
    weights: Sequence[Rotated], size: int, *, steps: int, seed: int, keeps_mean: bool = False
) -> Doubles:
    """Return an orthogonal ``[size, size]`` matrix of low `flatness`: descent from a random one.

    Args:
        weights: Weights that the rotation will change.
        size: Number n of rotated channels.
        steps: Number of steps of the descent.
        seed: Random seed of the start.
        keeps_mean: Whether the matrix R has ``R 1 = 1``, so that ``R x`` has the mean of ``x``.
    """
    nearest = _nearest_that_keeps_mean if keeps_mean else _nearest
    draw = np.random.default_rng(seed)
    rotation = nearest(draw.standard_normal((size, size))).astype(np.float32)
    weights = _sampled(weights, size, draw)
    loss, gradient = smooth_peak(weights, rotation)
    step, identity = _FIRST_STEP, np.eye(size, dtype=np.float32)
    for _ in range(steps):
        skew = gradient @ rotation.T
        skew -= skew.T.copy()
        if keeps_mean:
            skew -= skew.mean(axis=0, keepdims=True)
            skew -= skew.mean(axis=1, keepdims=True)
        norm = float(np.linalg.norm(skew, 2))
        if norm == 0:
            break
        half = skew * np.float32(step / norm / 2)
        candidate = np.linalg.solve(identity + half, (identity - half) @ rotation)  # the Cayley transform
        new_loss, new_gradient = smooth_peak(weights, candidate)
        if new_loss < loss:
            rotation, loss, gradient, step = candidate, new_loss, new_gradient, step * 1.2
        else:
            step /= 2
    return nearest(rotation.astype(np.float64))


def _sampled(weights: Sequence[Rotated], size: int, draw: np.random.Generator) -> Sequence[Rotated]:
    """Take rows whose inputs are rotated, and columns of weights whose outputs are, if all would take too long."""
    share = _MOST_PRODUCTS / size / max(sum(weight.weight.size for weight in weights), 1)
    if share >= 1:
        return weights
    sampled = []
    for weight in weights:
        axis = int(weight.outputs)
        count = weight.weight.shape[axis]
        taken = draw.choice(count, max(int(share * count), 1), replace=False)
        sampled.append(Rotated(np.take(weight.weight, taken, axis), weight.outputs))
    return sampled


def smooth_peak(weights: Sequence[Rotated], rotation: Floats) -> tuple[float, Floats]:
    """Return the smooth loss ``Σ mean_rows ‖row‖_p² / power`` and its gradient by the rotation.

    The rotation and the gradient are ``[n, n]`` float32.
    """
    total, gradient = 0.0, np.zeros_like(rotation)
    for weight in weights:
        rows = weight.by(rotation)
        power = float(np.square(rows).mean())
        if power == 0:
            continue
        share = np.float32(1 / (len(rows) * power))
        peak = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-30))
        relative = rows / peak
        slope = np.square(relative)
        slope *= np.square(slope)
        slope *= relative  # relative ** (p - 1), faster than a power
        # At least 1, the share of the peak itself, except in a row of zeros, which adds nothing.
        summed = np.maximum(np.einsum("rc,rc->r", slope, relative)[:, None], np.float32(1))
        norm = peak * summed ** np.float32(1 / _POWER)  # ‖row‖_p
        total += float(share * np.square(norm).sum())
        slope *= 2 * share * norm * summed ** np.float32(1 / _POWER - 1)
        gradient += slope @ weight.weight.T if weight.outputs else slope.T @ weight.weight
    return total, gradient


def _nearest(matrix: Doubles) -> Doubles:
    """Return the nearest orthogonal matrix."""
    left, _, right = np.linalg.svd(matrix)
    nearest: Doubles = left @ right
    return nearest


def _nearest_that_keeps_mean(matrix: Doubles) -> Doubles:
    """Return the nearest orthogonal matrix that fixes the vector of ones: ``1 1ᵀ / n + V R' Vᵀ``.

    The columns of V ``[n, n - 1]`` are orthonormal and orthogonal to the ones: those of a Householder reflection.
    """
    size = len(matrix)
    mirror = np.full((size, 1), -1 / np.sqrt(size))
    mirror[0] += 1  # e₁ - 1 / √n
    beside = np.eye(size)[:, 1:] - mirror @ mirror[1:].T * (2 / max(float((mirror**2).sum()), 1e-300))  # V
    kept: Doubles = 1 / size + beside @ _nearest(beside.T @ matrix @ beside) @ beside.T
    return kept
