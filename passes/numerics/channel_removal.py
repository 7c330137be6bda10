"""Optimal Brain Surgeon for whole channels: remove blocks of inputs of several layers, and adjust all other inputs.

Frantar & Alistarh 2022 (arXiv 2208.11580, §4, group OBS), with the Hessian H of the layer's output error. B are the
inputs of one channel, which is all taps of its kernel. Removing B from a weight W costs the error

    L_B = tr(W_B ([H⁻¹]_BB)⁻¹ W_Bᵀ),   W -= W_B ([H⁻¹]_BB)⁻¹ [H⁻¹]_B:   (equations 3 and 4 for blocks)
    H⁻¹ -= [H⁻¹]_:B ([H⁻¹]_BB)⁻¹ [H⁻¹]_B:

All outputs of a layer lose the same inputs. Several layers that read the channel lose it together, and their errors are
added up. The channel that costs least goes first. After each step, the costs of the others are those of the layers as
they are then. For a set of removed inputs, the values of the others are the exact optimum, W_K + W_R H_RK (H_KK)⁻¹.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, cho_factor, cho_solve, lapack

from passes.numerics.grid import Floats
from passes.numerics.moments import Moments

__all__ = ["Reader", "removal_order", "values_without", "without_inputs"]

Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]

_GONE = -2  # channel of an input that was removed
_EXACT = 1024  # most inputs for float64; in larger layers float32, which halves the time, is enough for an order
_COMPACT = 0.75  # share of the inputs at which removed ones are dropped from the arrays


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels.

    Attributes:
        weight: ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        channels: Channel of each input, ``[g, k]``, or -1 for an input that cannot be removed.
        worth: What its squared output error counts, such as 1 / the power of its output.
    """

    weight: Floats
    hessian: Floats
    channels: Indices
    worth: float = 1.0


def removal_order(readers: Sequence[Reader], size: int, count: int, *, together: int = 1) -> tuple[Indices, Doubles]:
    """Return the channels that go first, ``[count]``, and the error of all readers after each of them, ``[count]``.

    Channels that no reader reads cost nothing, and go first.

    Args:
        readers: Layers that read the channels.
        size: Number of channels.
        count: Number of channels to remove.
        together: Number of channels that are chosen at once, by their costs alone. 1 is the paper's order. The error
            of several that go together is exact too, and is written to all of them.

    Raises:
        ValueError: ``count`` is not within 0 to ``size``.
        numpy.linalg.LinAlgError: A Hessian is not positive definite.
    """
    if not 0 <= count <= size:
        raise ValueError(f"{count} of {size} channels cannot be removed")
    states = [
        _State(weight, hessian, channels, reader.worth)
        for reader in readers
        for weight, hessian, channels in zip(reader.weight, reader.hessian, reader.channels, strict=True)
    ]  # one for each group of a layer
    left = np.ones(size, np.bool_)
    order: list[int] = []
    errors: list[float] = []
    total = 0.0
    while len(order) < count:
        costs = sum((state.costs(size) for state in states), np.zeros(size))
        costs[~left] = np.inf
        chosen = costs.argsort(kind="stable")[: min(together, count - len(order))]
        total += sum(state.remove(chosen) for state in states)
        left[chosen] = False
        order += chosen.tolist()
        errors += [total] * len(chosen)
    return np.array(order, np.intp), np.array(errors, np.float64)


class _State:
    """One group of a layer, with the inputs that are left.

    Args:
        weight: ``[o, k]``.
        hessian: ``[k, k]``.
        channels: Channel of each input, ``[k]``.
        worth: What its squared output error counts.
    """

    def __init__(self, weight: Floats, hessian: Floats, channels: Indices, worth: float) -> None:
        dtype = np.float64 if len(hessian) <= _EXACT else np.float32
        self.weight: NDArray[np.floating[Any]] = weight.astype(dtype)
        self.inverse: NDArray[np.floating[Any]] = _inverse(hessian.astype(dtype))
        self.channels, self.worth = channels.copy(), worth

    def costs(self, size: int) -> Doubles:
        """Return the error that the removal of each channel adds, ``[size]``. It is 0 for channels not read here."""
        costs = np.zeros(size)
        places = np.argsort(self.channels, kind="stable")
        places = places[self.channels[places] >= 0]
        names, starts, counts = np.unique(self.channels[places], return_index=True, return_counts=True)
        for width in np.unique(counts).tolist():  # channels with equally many inputs are computed at once
            these = counts == width
            blocks = places[starts[these][:, None] + np.arange(width)]  # [c, b]
            inner = self.inverse[blocks[:, :, None], blocks[:, None, :]]  # [c, b, b]
            rows = self.weight.T[blocks]  # [c, b, o]
            power = rows @ rows.transpose(0, 2, 1)  # W_Bᵀ W_B, [c, b, b]
            costs[names[these]] = np.einsum("cii->c", np.linalg.solve(inner, power))
        return costs * self.worth

    def remove(self, chosen: Indices) -> float:
        """Remove channels and adjust what is left. Return the error that this adds."""
        gone = np.flatnonzero(np.isin(self.channels, chosen))
        if not gone.size:
            return 0.0
        inner = cho_factor(self.inverse[np.ix_(gone, gone)], lower=True)
        beside = self.inverse[gone]  # [b, k]; the inverse is symmetric
        across = cho_solve(inner, beside)  # ([H⁻¹]_BB)⁻¹ [H⁻¹]_B:
        lost = self.weight[:, gone]
        error = float((cho_solve(inner, lost.T) * lost.T).sum())
        self.weight -= lost @ across
        gemm = blas.dgemm if self.inverse.dtype == np.float64 else blas.sgemm
        self.inverse = gemm(-1, beside.T, across.T, 1, self.inverse.T, trans_b=1, overwrite_c=1).T
        self.channels[gone] = _GONE
        kept = np.flatnonzero(self.channels != _GONE)
        if kept.size < _COMPACT * len(self.channels):  # copies take as long as several steps
            self.weight = self.weight[:, kept]
            self.inverse = self.inverse[np.ix_(kept, kept)]
            self.channels = self.channels[kept]
        return error * self.worth


def values_without(weight: Floats, hessian: Floats, removed: NDArray[np.bool_]) -> Floats:
    """Return the values of least output error ``[g, o, k]`` that are zero at the removed inputs.

    Without removed inputs these are the weights themselves.

    Args:
        weight: ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        removed: Inputs that are removed, ``[g, k]``.

    Raises:
        numpy.linalg.LinAlgError: A Hessian is not positive definite.
    """
    values = np.where(removed[:, None], np.float32(0), weight)
    for group, gone in enumerate(removed):
        kept = ~gone
        if not gone.any() or not kept.any():
            continue
        h = hessian[group].astype(np.float64 if len(kept) <= _EXACT else np.float32)
        pulled = weight[group][:, gone].astype(h.dtype) @ h[np.ix_(gone, kept)]
        moved = cho_solve(cho_factor(h[np.ix_(kept, kept)], lower=True), pulled.T)
        values[group][:, kept] += moved.T.astype(np.float32)
    return values


def without_inputs(weight: Floats, moments: Moments, removed: NDArray[np.bool_]) -> tuple[Floats, Moments]:
    """Return the weight ``[g, o, K]`` of the inputs that stay, and the moments by which it makes up for the others.

    The layer's output loses W_R X̂_R. In the moments that are returned this is part of the residual, with the errors
    W (X - X̂) of the layers before. So `passes.numerics.asymmetric_target` makes up for all of it.

    Args:
        weight: ``[g, o, k]``.
        moments: Moments of the layer's inputs, with `cross`, about zero or about their mean.
        removed: Inputs that are removed, ``[g, k]``. Every group loses as many.
    """
    halves = moments.halves
    kept = np.nonzero(~removed)[1].reshape(len(removed), -1)  # [g, K]
    return np.take_along_axis(weight, kept[:, None], 2), replace(
        _left(weight, moments, removed, kept),
        halves=None
        if halves is None
        else (_left(weight, halves[0], removed, kept), _left(weight, halves[1], removed, kept)),
    )


def _left(weight: Floats, moments: Moments, removed: NDArray[np.bool_], kept: Indices) -> Moments:
    lost = np.where(removed[:, None], weight, np.float32(0)) @ moments.hessian  # [g, o, k]
    if moments.cross is not None:
        lost = lost + weight @ moments.cross
    if moments.residual is not None:
        lost = lost + moments.residual
    columns = np.take_along_axis(moments.hessian, kept[:, None], 2)
    hessian = np.ascontiguousarray(np.take_along_axis(columns, kept[:, :, None], 1))
    return Moments(
        hessian=hessian,
        cross=np.zeros_like(hessian),
        mean=np.take_along_axis(moments.mean, kept, 1),
        mean_quantized=np.take_along_axis(moments.mean_quantized, kept, 1),
        rows=moments.rows,
        residual=np.ascontiguousarray(np.take_along_axis(lost, kept[:, None], 2)),
    )


def _inverse(hessian: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the inverse ``[k, k]``, in the type of the Hessian.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not positive definite.
    """
    double = hessian.dtype == np.float64
    potrf, potri = (lapack.dpotrf, lapack.dpotri) if double else (lapack.spotrf, lapack.spotri)
    factor, info = potrf(hessian.T, lower=1, clean=0, overwrite_a=1)
    if info == 0:
        factor, info = potri(factor, lower=1, overwrite_c=1)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite at row {info}")
    lower: NDArray[np.floating[Any]] = np.tril(factor)
    lower += np.tril(lower, -1).T.copy()
    return lower
