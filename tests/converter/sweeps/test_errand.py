"""What travels to a worker without this disk, and what comes back."""

from pathlib import Path

import pytest

from converter.engine.storage import Storage
from converter.pipeline.sweep_record import SweepRow
from converter.sweeps.errand import Errand, _ship, fetched

pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")


def test_folders_behind_links_travel_too(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    photos.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"a")
    (photos / "class").symlink_to(elsewhere)
    (photos / "class" / "back").symlink_to(photos)
    inputs: dict[str, str] = {}
    assert _ship(str(photos), "calibration", Storage(str(tmp_path / "shared")), inputs, {}) == "calibration"
    assert list(inputs) == ["calibration/class/a.png"]


def test_a_file_that_changed_on_its_way_is_a_failure(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "shared"))
    storage.put(folder / "m.onnx", "results/k/q.onnx")
    row = SweepRow("m", "int8", "cpu", file="q.onnx", sha256="other", key="k")
    back = fetched(Errand(None, storage=storage), row, tmp_path)  # type: ignore[arg-type]
    assert back.failure == "its file changed on the way from the worker; `retry=True` makes it again"
    assert not (tmp_path / "q.onnx").exists()
