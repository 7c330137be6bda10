"""A sweep: rows with measurements or reasons, which later calls use if nothing that matters has changed."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from converter import Preprocess, Settings, Sweep, SweepModel, SweepPlan, SweepRecipe, SweepRow, sweep
from converter.metrics.metric_run import MetricFacts
from converter.report.page.sweep_page import render_sweep
from converter.sweeps.opened_model import shared_facts
from passes.errors import ConvertError, OutputError
from tests.support.command_line import ROOT, names
from tests.support.models import save_images, small_cnn

TIMED = Settings(limit=16, timing=True)
PREPROCESS = Preprocess(mean=(0.5,), std=(0.25,))


def plan(*recipes: str, evaluation: str | None = None, models: tuple[str, ...] = ("m.onnx",)) -> SweepPlan:
    chosen = tuple(SweepModel(each, "", "calibration.npz", evaluation, preprocess=PREPROCESS) for each in models)
    return SweepPlan(chosen, tuple(map(SweepRecipe, recipes)), settings=Settings(limit=16, timing=False))


class Rows:
    """Progress callback that notes how many rows each call made."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == "sweep":
            self.done.append(done)

    @property
    def made(self) -> int:
        return self.done[-1] - self.done[0]


def made(given: SweepPlan, *, keep_files: bool = True, retry: bool = False) -> tuple[int, Sweep]:
    rows = Rows()
    found = sweep(given, "out", keep_files=keep_files, retry=retry, progress=rows)
    return rows.made, found


@pytest.mark.usefixtures("folder")
def test_rows_have_what_was_measured() -> None:
    timed = dataclasses.replace(plan("int8", "int4-weight-only-rtn", evaluation="unseen.npz"), settings=TIMED)
    found = sweep(timed, "out")
    for row in found.rows:
        assert row.failure == ""
        path = Path("out/files") / row.file
        assert path.stat().st_size == row.bytes
        onnx.checker.check_model(onnx.load(path))
        assert (row.samples, row.judged_on) == (16, "evaluation")
        assert row.sqnr_db is not None
        assert row.sqnr_db > 10
        assert row.speedup is not None
        assert row.float_bytes == Path("m.onnx").stat().st_size
    assert [row.file for row in found.rows] == ["m-int8-cpu.onnx", "m-int4-weight-only-rtn-cpu.onnx"]
    assert names(Path("out")) == {"files", "rows"}


@pytest.mark.usefixtures("folder")
def test_without_evaluation_data_samples_that_did_not_calibrate_judge() -> None:
    (row,) = sweep(plan("int8"), "out").rows
    assert row.judged_on == "held out"
    assert row.samples == 8
    few = dataclasses.replace(plan("int8"), settings=Settings())  # all 32 would calibrate
    (row,) = sweep(few, "out").rows
    assert (row.judged_on, row.samples) == ("held out", 4)


@pytest.mark.usefixtures("folder")
def test_a_finished_row_is_not_made_again_unless_what_matters_changed() -> None:
    first = plan("int8", "int8-weight-only")
    assert made(first)[0] == 2
    assert made(first)[0] == 0
    assert made(plan("int8-weight-only", "int4-weight-only-rtn"))[0] == 1  # one of them is known
    assert made(dataclasses.replace(first, settings=Settings(limit=12, timing=False)))[0] == 2
    onnx.save(small_cnn(7), "m.onnx")
    assert made(first)[0] == 2
    save_images(Path("calibration.npz"), 32, seed=5)
    count, found = made(first)
    assert count == 2
    Path("out/files", found.rows[0].file).write_bytes(b"another file")
    assert made(first)[0] == 1
    row = Path("out/rows", f"{found.rows[1].key}.json")
    row.write_text(row.read_text()[:40])
    count, again = made(first)
    assert count == 1
    assert [each.bytes for each in again.rows] == [each.bytes for each in found.rows]


def test_every_setting_counts_but_where_the_work_lies() -> None:
    plain = shared_facts(Settings())
    assert shared_facts(Settings(class_index=True)) != plain
    assert shared_facts(Settings(cache="elsewhere")) == plain


@pytest.mark.usefixtures("folder")
def test_what_the_user_keeps_in_the_folder_stays() -> None:
    mine = Path("out/work/notes.txt")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    sweep(plan("int8-weight-only"), "out")
    assert mine.read_text() == "mine"
    hidden = Path("out/.work/notes.txt")
    hidden.parent.mkdir()
    hidden.write_text("mine")
    with pytest.raises(OutputError, match=r"out/\.work is not of a sweep, which would remove it"):
        sweep(plan("int8-weight-only"), "out")
    assert hidden.read_text() == "mine"


@pytest.mark.usefixtures("folder")
def test_a_file_of_the_user_is_refused_before_the_work() -> None:
    mine = Path("out/files/m-int8-weight-only-cpu.onnx")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"m-int8-weight-only-cpu\.onnx is not of this sweep; move it"):
        sweep(plan("int4-weight-only-rtn", "int8-weight-only"), "out")
    assert mine.read_text() == "mine"
    assert names(Path("out/rows")) == set()


@pytest.mark.usefixtures("folder")
def test_a_row_under_the_key_of_another_is_not_trusted() -> None:
    given = plan("int8", "int8-weight-only")
    _, found = made(given)
    one, other = (Path("out/rows", f"{row.key}.json") for row in found.rows)
    one.write_text(other.read_text())
    assert made(given)[0] == 1


@pytest.mark.usefixtures("folder")
def test_without_files_only_rows_are_kept() -> None:
    given = plan("int8-weight-only")
    count, found = made(given, keep_files=False)
    assert (count, found.rows[0].file, names(Path("out/files"))) == (1, "", set())
    assert made(given, keep_files=False)[0] == 0
    assert made(given)[0] == 1  # now with its file


@pytest.mark.usefixtures("folder")
def test_a_failure_is_a_row_and_the_others_go_on() -> None:
    bad = SweepModel("m.onnx", "bad", exclude=("nowhere",))
    given = SweepPlan((bad, SweepModel("m.onnx")), (SweepRecipe("int8-weight-only"),), settings=Settings())
    count, found = made(given)
    assert count == 2
    (failed,), (done,) = found.failed, found.done
    assert "nowhere" in failed.failure
    assert (failed.model, failed.file, done.model, done.failure) == ("bad", "", "m", "")
    assert made(given)[0] == 0
    assert made(given, retry=True)[0] == 1


@pytest.mark.usefixtures("folder")
def test_a_full_disk_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr("converter.sweeps.conversion.convert", refuse)
    with pytest.raises(OutputError, match="disk full"):
        sweep(plan("int8"), "out")


@pytest.mark.usefixtures("folder")
def test_a_bug_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.sweeps.conversion.convert", lambda *_, **__: 1 // 0)
    (row,) = sweep(plan("int8"), "out").rows
    assert row.failure.startswith("unexpected ZeroDivisionError: ")


@pytest.mark.usefixtures("folder")
def test_warnings_are_in_the_row(caplog: pytest.LogCaptureFixture) -> None:
    (row,) = sweep(plan("int8"), "out").rows
    assert any("only 16 images calibrate" in warning for warning in row.warnings)
    assert "only 16 images" not in caplog.text


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (SweepModel("gone.onnx"), "gone: "),
        (SweepModel("m.onnx"), "m: recipe 'int8' needs calibration data"),
        (SweepModel("m.onnx", calibration="none.npz"), "m: "),
        (SweepModel("m.onnx", calibration="calibration.npz", evaluation="none.npz"), "m: "),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_work(model: SweepModel, words: str) -> None:
    good = SweepModel("m.onnx", "good", "calibration.npz", preprocess=PREPROCESS)
    with pytest.raises(ConvertError) as refused:
        sweep(SweepPlan((good, model), (SweepRecipe("int8"),)), "out")
    assert str(refused.value).startswith(words)
    assert names(Path("out/rows")) == set()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_killed_sweep_goes_on() -> None:
    code = (
        "import converter; from tests.converter.sweeps.test_sweep import plan; "
        "converter.sweep(plan('int8', 'int8-weight-only', 'int4-weight-only-rtn'), 'out')"
    )
    running = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not list(Path("out").glob("rows/*.json")) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in Path("out/rows").glob("*.json")}
    assert 0 < len(kept) < 3
    found = sweep(plan("int8", "int8-weight-only", "int4-weight-only-rtn"), "out")
    assert len(found.done) == 3
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert names(Path("out")) == {"files", "rows"}


def row(name: str, size: int, **values: float | str | MetricFacts) -> SweepRow:
    return SweepRow("m", name, "cpu", bytes=size, key=name, **values)  # type: ignore[arg-type]


def test_the_front_has_what_nothing_else_beats() -> None:
    found = Sweep((row("a", 10, sqnr_db=20.0), row("b", 20, sqnr_db=19.0), row("c", 30, sqnr_db=40.0)))
    assert found.front() == {"a", "c"}
    equal = Sweep((row("a", 10, sqnr_db=math.inf), row("b", 20, sqnr_db=30.0)))  # to float
    assert equal.front() == {"a"}
    assert "30" in render_sweep(equal)
    labelled = Sweep((row("a", 10, top1=0.7, float_top1=0.8), row("b", 20, top1=0.7, float_top1=0.8)))
    assert labelled.front() == {"a"}
    assert labelled.quality.of == pytest.approx({"a": 10.0, "b": 10.0})
    cer = MetricFacts("cer", "%", False, "labels")
    texts = Sweep(
        (
            row("a", 10, metric=9.0, float_metric=5.0, measure=cer),
            row("b", 20, metric=6.0, float_metric=5.0, measure=cer),
        )
    )
    assert texts.quality.of == {"a": 4.0, "b": 1.0}
    assert texts.front() == {"a", "b"}


def test_a_row_is_itself_again_from_json() -> None:
    first = row("a", 10, sqnr_db=float("inf"), measure=MetricFacts("map", "%", True, "labels"))
    values = json.loads(json.dumps({**vars(first), "measure": vars(first.measure)}))
    assert SweepRow.from_json(values) == first
