"""The bars of budgets, on a small network."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.budgets import budget_bars, uniform
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from passes.weights.gptq import Gptq
from tests.support.networks import images, quiet, run, wide


def test_uniform_bits_are_the_given_ones() -> None:
    (solver,) = (step for step in uniform(3).passes if isinstance(step, Gptq))
    assert solver.bits == 3
    assert uniform(3).storage == "packed"


@pytest.mark.slow
def test_bars_of_a_small_network(tmp_path: Path) -> None:
    model = wide()

    def labelled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, run(model, x)[0].argmax(axis=1)

    data, evaluation = (load_data(labelled(images(48, 3, 12, 12, seed=seed)), input_specs(model)) for seed in (1, 2))
    gained, bits, lost, latency = budget_bars("wide", model, data, evaluation, 32, (4,), 3.0, tmp_path, quiet)
    assert gained.holds
    assert gained.measured > 1
    assert 2 <= bits.measured <= 8
    assert "48 images" in lost.note
    assert lost.limit is None
    assert latency.measured > 0
    assert list(tmp_path.rglob("effect-*.npz"))
