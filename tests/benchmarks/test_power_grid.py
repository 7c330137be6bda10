"""Powers as a grid: levels, nearest values, and a table that onnxruntime folds."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import power_grid
from benchmarks.shared_data import MissingData
from passes.numerics.error import sqnr_db
from tests.support.arrays import normal
from tests.support.networks import resnet


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_rise_and_hold_in_8_bits(bits: int) -> None:
    levels = power_grid.power_levels(bits, 1.6)
    assert levels.shape == (2**bits,)
    assert (np.diff(levels) > 0).all()
    np.testing.assert_allclose(levels * 127, np.round(levels * 127), atol=1e-4)
    assert levels[2 ** (bits - 1)] == 0
    np.testing.assert_allclose(power_grid.power_levels(bits, 1.0)[0], -1)


def test_values_are_of_the_channel_grid() -> None:
    weight = normal(2, 5, 40)
    values = power_grid.power_values(weight, 3, 1.5)
    assert values.shape == weight.shape
    assert max(len(np.unique(row)) for row in values.reshape(-1, 40)) <= 8
    assert sqnr_db(weight, values) > 11


def test_weights_of_a_bell_gain_by_powers_and_more_by_two_levels() -> None:
    (row,) = power_grid.measured("small", resnet(), [3])
    assert row.power > row.uniform
    assert row.two_level > row.power
    assert len(power_grid.table([row]).rows) == 1


def test_onnxruntime_folds_a_table_of_values() -> None:
    assert power_grid.holds_a_table()


def test_missing_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(_: Any) -> None:
        raise MissingData("no weights in /nowhere")

    network = type("Missing", (), {"model": missing})()
    monkeypatch.setattr(power_grid, "NETWORKS", {"ResNet-20": network})
    assert power_grid.main(["--networks", "ResNet-20"]) == 1
    assert capsys.readouterr().err.startswith("Error: no weights in /nowhere")
