"""A few samples to run a model on: real ones, and noise of the same shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.dataset import Dataset
from converter.data.inputs import InputSpec

__all__ = ["Feeds", "noise", "noise_feeds", "noise_like", "perturbed", "real_feeds"]

_IMAGE_AXES = 4

Feeds = dict[str, NDArray[Any]]
"""Inputs of one run, by name."""


def real_feeds(data: Dataset | None, count: int) -> list[Feeds]:
    """Return the inputs of the first ``count`` runs of one sample each. A fixed batch size makes them larger."""
    if data is None:
        return []
    return [batch.feeds for batch, _ in zip(data.batches(1), range(count), strict=False)]


def noise_like(feeds: Mapping[str, NDArray[Any]], seed: int = 0) -> Feeds:
    """Return inputs of the same shapes and types.

    Floats are normal numbers with the mean and deviation of the sample. Other inputs are the values of the sample in
    another order, so token ids and lengths stay valid.
    """
    rng = np.random.default_rng(seed)
    return {name: _noise(values, rng) for name, values in feeds.items()}


def noise_feeds(inputs: Sequence[InputSpec], seed: int = 0) -> Feeds | None:
    """Return standard normal inputs, random pixels, and zeros for other inputs. None if a size after axis 0 is open."""
    if any(None in spec.shape[1:] for spec in inputs):
        return None
    rng = np.random.default_rng(seed)
    shapes = {spec.name: tuple(size or 1 for size in spec.shape) for spec in inputs}
    return {spec.name: noise(spec, shapes[spec.name], rng) for spec in inputs}


def noise(spec: InputSpec, shape: Sequence[int], rng: np.random.Generator) -> NDArray[Any]:
    """Return standard normal numbers for an input of floats, random pixels for an image of uint8, else zeros."""
    if spec.dtype == np.uint8 and len(shape) == _IMAGE_AXES:
        return rng.integers(0, 256, tuple(shape), np.uint8)
    return np.asarray(rng.standard_normal(tuple(shape)) if spec.dtype.kind == "f" else np.zeros(shape)).astype(
        spec.dtype
    )


def perturbed(feeds: Mapping[str, NDArray[Any]], amount: float, seed: int = 0) -> Feeds:
    """Return inputs whose floats differ by the relative ``amount``, drawn from a normal distribution."""
    rng = np.random.default_rng(seed)
    return {
        name: (values * (1 + amount * rng.standard_normal(values.shape))).astype(values.dtype)
        if values.dtype.kind == "f"
        else values
        for name, values in feeds.items()
    }


def _noise(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    if values.dtype.kind != "f":
        return rng.permutation(values.reshape(-1)).reshape(values.shape)
    wide = values.astype(np.float64)
    deviation = float(wide.std()) if wide.size else 0.0
    mean = float(wide.mean()) if wide.size else 0.0
    return np.asarray(mean + (deviation or 1.0) * rng.standard_normal(values.shape)).astype(values.dtype)
