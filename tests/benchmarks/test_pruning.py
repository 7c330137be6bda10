"""The study of pruning: its rows, its table, and what it refuses."""

import dataclasses
import json
import lzma
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pruning
from converter.runtime.session import no_progress
from tests.support.judged_network import JudgedNetwork


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "NETWORKS", {"small": (JudgedNetwork(), 0.5)})


@pytest.mark.usefixtures("small")
def test_rows_of_a_network() -> None:
    names = ["no pruning, 4 bits", "OBS 50 %, 4 bits", "zeros only 50 %, 4 bits"]
    rows = pruning.measured("small", names, no_progress)
    assert [row.method for row in rows] == ["float", *names]
    plain, dense, ours, zeros_only = rows
    assert (plain.top1, plain.lost, plain.sqnr_db, plain.zeros) == (100.0, 0.0, None, 0.0)
    assert (ours.sqnr_db or 0) > (zeros_only.sqnr_db or 0) + 1
    assert ours.zeros > dense.zeros + 0.2
    assert ours.lost == pytest.approx(plain.top1 - ours.top1)
    assert [row.limit for row in rows] == [None, None, 0.5, None]
    text = str([list(column.cells) for column in pruning.table(rows).columns])
    assert f"{ours.sqnr_db:.1f} dB" in text


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_exit_code_is_that_of_the_bars(
    limit: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = pruning.Row("small", "float", 90.0, 0.0, 0.1, 64, None, 0.0, 100, {"zip": 90, "xz": 80}, 0.0, None)
    lost = dataclasses.replace(row, method="OBS", top1=89.0, lost=1.0, sqnr_db=20.0, zeros=0.5, limit=limit)
    monkeypatch.setattr(pruning, "measured", lambda *_: [row, lost])
    monkeypatch.setattr(pruning, "COMPRESSIONS", {"zip": len, "xz": len})
    code = pruning.main(["--networks", "small", "--json", str(tmp_path / "rows.json")])
    assert code == (0 if limit is None else 1)
    written: list[dict[str, Any]] = json.loads((tmp_path / "rows.json").read_text())
    assert [each["method"] for each in written] == ["float", "OBS"]
    text = capsys.readouterr().out
    assert ("missed" in text) is (limit is not None)
    assert "50.0 %" in text


def test_compressed_sizes_are_those_of_the_libraries() -> None:
    data = np.random.default_rng(0).integers(0, 4, 20_000, dtype=np.uint8).tobytes()
    sizes = pruning.compressed(data)
    assert sizes["zip"] == len(zlib.compress(data, 9))
    assert sizes["xz"] == len(lzma.compress(data, preset=9))
    assert max(sizes.values()) < len(data) / 2


def test_unknown_methods_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pruning.main(["--methods", "random"])
    assert "no row begins with 'random'; there are: no pruning, 4 bits, OBS 50 %" in capsys.readouterr().err


def test_baselines_differ_in_the_choice_of_weights_alone() -> None:
    for bits, kind in ((4, "50 %"), (8, "2:4")):
        ours, magnitude = (pruning.METHODS[f"{name} {kind}, {bits} bits"][0] for name in ("OBS", "magnitude"))
        assert ours.with_solver(method="magnitude").passes == magnitude.passes
