"""The study of channel pruning: its rows, its table, and its exit code."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import channel_pruning
from converter.channels.costs import products_of
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.runtime.session import no_progress
from passes.numerics.channel_allocation import LayerCosts
from tests.support.networks import images, run, wide


class Wide:
    """A network with channels to remove, and images of which the float network knows the classes."""

    def model(self) -> onnx.ModelProto:
        return wide()

    def images(self, model: onnx.ModelProto, calibrate: int) -> tuple[Dataset, Dataset]:
        inputs = input_specs(model)
        unseen = images(64, 3, 12, 12, seed=9)
        labels = run(model, unseen)[0].argmax(1)
        return load_data(images(48, 3, 12, 12), inputs).limit(calibrate), load_data((unseen, labels), inputs)


@pytest.mark.slow
def test_rows_of_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def products(_: Any, model: Any, groups: Any, *others: Any) -> LayerCosts:
        return products_of(model, groups, others[2])

    monkeypatch.setattr("converter.pipeline.channel_shares.seconds_of", products)  # times differ from run to run
    monkeypatch.setattr(channel_pruning, "NETWORKS", {"small": (Wide(), None)})
    kept = tmp_path / "choices.json"
    rows = channel_pruning.measured("small", [0.3], 0, None, kept, no_progress, 48)
    assert [row.method for row in rows] == ["float", "8 bits", "channels for 30% of the time, 8 bits"]
    assert rows[1].faster == 1
    assert rows[2].smaller > 1
    assert rows[2].bytes < rows[1].bytes
    again = channel_pruning.measured("small", [0.3], 0, 32, kept, no_progress, 48)  # what was measured is read
    assert again[2].bytes == rows[2].bytes
    assert again[0].images == 32


@pytest.mark.slow
def test_making_up_is_worth_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_pruning, "NETWORKS", {"small": (Wide(), None)})
    rows = channel_pruning.making_up("small", 0.3, 32, no_progress, 48)
    assert [row.method for row in rows] == ["float", "8 bits", *channel_pruning.MAKING_UP]
    assert (rows[4].sqnr_db or 0) > (rows[2].sqnr_db or 0) + 0.5


@pytest.mark.parametrize(
    ("wanted", "faster", "lost", "code"),
    [(1.5, 1.6, 0.4, 0), (1.5, 1.4, 0.4, 1), (1.5, 1.6, 0.6, 1), (None, 1.0, 9, 0)],
)
def test_the_exit_code_is_that_of_the_bar(
    wanted: float | None,
    faster: float,
    lost: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = channel_pruning.Row("small", "float", 90.0, 0.0, 0.1, 64, None, 100, 1.0, 0.5, 0.0)
    plain = dataclasses.replace(row, method="8 bits", sqnr_db=30.0, faster=1.0)
    fewer = dataclasses.replace(plain, method="channels", lost=lost, faster=faster, smaller=1.7)
    monkeypatch.setattr(channel_pruning, "NETWORKS", {"small": (None, wanted)})
    monkeypatch.setattr(channel_pruning, "measured", lambda *_: [row, plain, fewer])
    found = channel_pruning.main(["--networks", "small", "--json", str(tmp_path / "rows.json")])
    assert found == code
    written: list[dict[str, Any]] = json.loads((tmp_path / "rows.json").read_text())
    assert [each["method"] for each in written] == ["float", "8 bits", "channels"]
    assert "1.70x smaller" in capsys.readouterr().out
