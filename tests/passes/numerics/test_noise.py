"""The expected noise, compared with the measured noise of quantization."""

import numpy as np
import pytest
from numpy.typing import NDArray

from passes.numerics.activation_range_search import mse
from passes.numerics.channels import ChannelStatistics
from passes.numerics.grid import ActivationGrid, Floats
from passes.numerics.histogram import Histogram
from passes.numerics.noise import activation_error, expected_noise, noise_gain
from passes.numerics.weight_scale_search import absmax_grid


def statistics(x: Floats) -> ChannelStatistics:
    result = ChannelStatistics(x.shape[1])
    result.update(x)
    return result


def rows(kind: str, spread: NDArray[np.float64], count: int = 4000, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    x = rng.laplace(size=(count, len(spread))) if kind == "laplace" else rng.standard_normal((count, len(spread)))
    return (np.maximum(x, 0) if kind == "relu" else x).astype(np.float32) * spread.astype(np.float32)


def quantized(x: Floats) -> Floats:
    histogram = Histogram()
    histogram.update(x)
    return ActivationGrid.of(*mse(histogram, 8, False)).values(x)


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu"])
@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_expected_noise_is_within_a_factor_of_two_of_measured_noise(kind: str, outlier: float) -> None:
    spread = np.ones(16)
    spread[3] = outlier
    x = rows(kind, spread)
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((1, 24, 16)).astype(np.float32)
    grid = absmax_grid(weight, 8)
    rounded = grid.values(grid.codes(weight))
    reference = x @ weight[0].T
    noise = np.square(quantized(x) @ rounded[0].T - reference).sum()
    expected = expected_noise(weight, statistics(x), 8)
    signal = (np.square(weight[0]) * np.square(x).mean(axis=0)).sum() * len(x)  # assumes uncorrelated inputs
    assert expected == pytest.approx(noise / signal, rel=0.5)


def test_noise_grows_with_an_outlier_and_falls_when_it_is_smoothed() -> None:
    spread = np.ones(8)
    plain = activation_error(statistics(rows("normal", spread)))
    spread[0] = 50
    outlier = activation_error(statistics(rows("normal", spread)))
    assert outlier.sum() > 100 * plain.sum()
    inputs = statistics(rows("normal", spread))
    smoothed = activation_error(inputs.rescaled(1 / spread))
    np.testing.assert_allclose(smoothed, plain, rtol=1e-3)


def test_taps_and_groups_read_their_channel() -> None:
    x = rows("normal", np.array([1.0, 2.0, 3.0, 4.0]))
    weight = np.random.default_rng(0).standard_normal((2, 3, 2 * 9)).astype(np.float32)  # [g, o, i taps]
    dense = np.zeros((1, 6, 4 * 9), np.float32)
    dense[0, :3, :18], dense[0, 3:, 18:] = weight[0], weight[1]
    inputs = statistics(x)
    errors = activation_error(inputs)
    signal = np.einsum("gok,k->", np.square(dense), np.repeat(inputs.mean_square, 9))
    step = np.abs(weight).max(axis=2) / 127
    power = np.repeat(inputs.mean_square, 9).reshape(2, 18).sum(axis=1)
    noise = np.einsum("gok,k->", np.square(dense), np.repeat(errors, 9)) + (step**2 / 12 * power[:, None]).sum()
    assert expected_noise(weight, inputs, 8) == pytest.approx(noise / signal, rel=1e-5)


@pytest.mark.parametrize("channel", [0, 3])
def test_the_gain_is_the_output_error_of_an_error_in_one_channel(channel: int) -> None:
    rng = np.random.default_rng(2)
    x = rows("normal", np.array([1.0, 2.0, 3.0, 4.0]), count=200_000)
    weight = rng.standard_normal((2, 3, 2)).astype(np.float32)  # [g, o, i]
    error = np.zeros_like(x)
    error[:, channel] = rng.standard_normal(len(x))
    made, signal = (np.einsum("ngi,goi->ngo", rows.reshape(-1, 2, 2), weight) for rows in (error, x))
    gain = noise_gain(weight, statistics(x))
    assert gain.shape == (4,)
    assert gain[channel] == pytest.approx(np.square(made).sum() / np.square(signal).sum(), rel=0.02)  # 200,000 draws


def test_no_inputs_no_noise() -> None:
    no_progress = statistics(np.zeros((5, 3), np.float32))
    assert activation_error(no_progress).tolist() == [0, 0, 0]
    assert expected_noise(np.ones((1, 2, 3), np.float32), no_progress, 8) == 0
    assert noise_gain(np.ones((1, 2, 3), np.float32), no_progress).tolist() == [0, 0, 0]
