"""A sweep on several processes gives the rows of one, without a shared disk too, and outlives its workers."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converter import Preprocess, Settings, Sweep, SweepModel, SweepPlan, SweepRecipe, Workers, sweep
from passes.errors import ConvertError, OutputError, UsageError
from tests.support.command_line import names

distributed = pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of dask's own threads and sockets when a cluster closes

RECIPES = ("int8-weight-only", "int4-weight-only-rtn", "int8")


def plan() -> SweepPlan:
    model = SweepModel("m.onnx", "", "calibration.npz", preprocess=Preprocess(mean=(0.5,), std=(0.25,)))
    return SweepPlan((model,), tuple(map(SweepRecipe, RECIPES)), settings=Settings(limit=16))


def same(one: Sweep, other: Sweep) -> bool:
    """Whether two sweeps have the same rows, apart from times."""
    return [_timeless(row) for row in one.rows] == [_timeless(row) for row in other.rows]


def _timeless(row: object) -> dict[str, object]:
    return {**vars(row), "seconds": 0}


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler whose workers have another current folder."""
    here, elsewhere = Path.cwd(), tmp_path_factory.mktemp("elsewhere")
    os.chdir(elsewhere)
    try:
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as started:
            os.chdir(here)
            yield started.scheduler_address
    finally:
        os.chdir(here)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_local_workers_give_the_rows_of_one_process() -> None:
    assert same(sweep(plan(), "here"), sweep(plan(), "there", workers=Workers(2)))
    for name in names(Path("here/files")):
        assert Path("here/files", name).read_bytes() == Path("there/files", name).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_workers_without_this_disk_get_what_they_need(cluster: str) -> None:
    expected = sweep(plan(), "here")
    found = sweep(plan(), "there", workers=Workers(scheduler=cluster, storage="shared"))
    assert same(expected, found)
    for name in names(Path("here/files")):
        assert Path("here/files", name).read_bytes() == Path("there/files", name).read_bytes()
    assert not list(Path("shared").glob("results/*"))


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_stopped_sweep_leaves_no_files_in_the_storage(cluster: str) -> None:
    def stop(label: str, done: int, _: int) -> None:
        if (label, done) == ("sweep", 1):
            time.sleep(3)  # the worker goes on
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan(), "there", workers=Workers(scheduler=cluster, storage="shared"), progress=stop)
    assert not list(Path("shared").glob("results/*"))


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_scheduler_that_dies_is_an_error_of_one_line(tmp_path: Path) -> None:
    port = tmp_path / "port.json"
    command = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(port)]
    scheduler = subprocess.Popen([*command, "scheduler", *options], **quiet)
    worker = subprocess.Popen(
        [*command, "worker", "--scheduler-file", str(port), "--nthreads", "1", "--no-nanny"], **quiet
    )
    try:
        while not port.is_file():
            time.sleep(0.1)
        address = json.loads(port.read_text())["address"]
        with distributed.Client(address) as client:
            client.wait_for_workers(1)

        def stop(label: str, done: int, _: int) -> None:
            if (label, done) == ("sweep", 1):
                scheduler.kill()

        with pytest.raises(ConvertError, match=f"^`scheduler={address}` ended before the work was done; start it"):
            sweep(plan(), "there", workers=Workers(scheduler=address, storage="shared"), progress=stop)
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": 0}, "`workers=0` does no work"),
        ({"scheduler": "tcp://10.0.0.1:8786"}, "needs `storage=`"),
        ({"scheduler": "10.0.0.1", "storage": "x"}, "is no address such as tcp://10.0.0.1:8786"),
        ({"scheduler": "tcp://10.0.0.1:8786", "storage": "x", "count": 2}, "`workers=2` has no effect"),
        ({"storage": "x://y"}, "`storage=x://y` has no effect without `scheduler=`"),
        ({"memory": 10}, "`worker_memory=10` has no effect without `workers=`"),
    ],
)
def test_workers_that_make_no_sense_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        Workers(**values)  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"`workers=2` needs dask; install convert-onnx\[dask\]"):
        Workers(2)


@pytest.mark.usefixtures("folder")
def test_a_storage_that_cannot_be_written_is_refused_before_the_work() -> None:
    Path("file").write_text("no folder")
    workers = Workers(scheduler="tcp://127.0.0.1:1", storage="file/inside")
    with pytest.raises(OutputError, match=r"file/inside'` cannot be used"):
        sweep(plan(), "out", workers=workers)
    assert names(Path("out/rows")) <= {"files.txt"}


@pytest.mark.usefixtures("folder")
def test_a_row_whose_workers_die_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        shares_disk, workers = True, 2

        def results(self, work: object, tasks: list[object], lost: object) -> Iterator[tuple[int, object]]:
            assert callable(lost)
            assert callable(work)
            yield 0, lost(tasks[0], "3 workers died of it")
            for index, task in enumerate(tasks[1:], start=1):
                yield index, work(task)

    from contextlib import nullcontext

    monkeypatch.setattr("converter.sweeps.sweep.opened", lambda _: nullcontext(Dying()))
    found = sweep(dataclasses.replace(plan(), recipes=tuple(map(SweepRecipe, RECIPES[:2]))), "out")
    assert [row.failure for row in found.rows] == ["3 workers died of it", ""]
