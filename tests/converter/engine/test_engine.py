"""Engines run every task once, and those whose worker dies again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.engine.engine import InProcess
from converter.engine.shelf import Shelf
from converter.engine.storage import Storage
from converter.runtime.session import available_threads
from passes.errors import OutputError, UsageError


def square(value: int) -> int:
    return value * value


def die_once(place: str) -> int:
    """Kill the process of the first call."""
    if not Path(place).exists():
        Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(value: int) -> None:
    raise OutputError(f"{value} cannot be written")


def threads(_: object) -> int:
    return available_threads()


def trimming(_: object) -> str | None:
    return os.environ.get("MALLOC_TRIM_THRESHOLD_")


def lost(task: object, reason: str) -> str:
    return f"{task}: {reason}"


def test_one_process_runs_all_in_order() -> None:
    assert list(InProcess().results(square, [1, 2, 3], lost)) == [(0, 1), (1, 4), (2, 9)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own threads and sockets when a cluster closes
def test_local_workers_run_all_and_again_what_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    from converter.engine.dask_engine import local_engine

    monkeypatch.setattr("converter.runtime.freed_memory._taken", {})
    with local_engine(2, None) as engine:
        assert list(engine.results(trimming, [0], lost)) == [(0, None)]  # not 64 KB, as Dask has it
        share = max(1, available_threads() // 2)
        assert sorted(engine.results(threads, [0, 0], lost)) == [(0, share), (1, share)]
        assert engine.shares_disk
        assert sorted(engine.results(square, [1, 2, 3], lost)) == [(0, 1), (1, 4), (2, 9)]
        assert list(engine.results(die_once, [str(tmp_path / "died")], lost)) == [(0, 1)]
        ((_, reason),) = engine.results(die, ["task"], lost)
        assert reason == "task: 3 workers died of it, most likely for lack of memory"
        with pytest.raises(OutputError, match="5 cannot be written"):
            list(engine.results(fail, [5], lost))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own threads and sockets when a cluster closes
def test_local_workers_keep_freed_memory_as_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    from converter.engine.dask_engine import local_engine

    monkeypatch.setattr("converter.engine.dask_engine.kept_by_children", lambda: {"MALLOC_TRIM_THRESHOLD_": "1048576"})
    before = dict(os.environ)
    with local_engine(1, None) as engine:
        assert dict(os.environ) == before  # Dask leaves the variables of its workers in the process that starts them
        assert list(engine.results(trimming, [0], lost)) == [(0, "1048576")]
    assert dict(os.environ) == before


def test_a_storage_keeps_files_by_their_bytes(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")
    storage = Storage(str(tmp_path / "new" / "shared"))
    storage.require_writable()
    (tmp_path / "a.npz").write_bytes(b"one")
    (tmp_path / "b.npz").write_bytes(b"one")
    (tmp_path / "c.npz").write_bytes(b"two")
    names = [storage.keep(tmp_path / name) for name in ("a.npz", "b.npz", "c.npz")]
    assert names[0] == names[1] != names[2]
    storage.get(names[2], tmp_path / "copies" / "c.npz")
    assert (tmp_path / "copies" / "c.npz").read_bytes() == b"two"
    storage.put(tmp_path / "a.npz", "results/x/a.npz")
    storage.remove("results/x")
    with pytest.raises(OutputError, match="cannot be used"):
        storage.get("results/x/a.npz", tmp_path / "gone")
    assert not list((tmp_path / "new" / "shared").glob("*.part"))


def test_a_storage_may_be_any_address_of_fsspec(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")
    (tmp_path / "a.npz").write_bytes(b"one")
    storage = Storage("memory://shared")
    storage.get(storage.keep(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "b.npz").read_bytes() == b"one"
    with pytest.raises(OutputError, match="`storage='nowhere://x'` cannot be used: "):
        Storage("nowhere://x").require_writable()


@pytest.mark.parametrize(
    ("threads", "words"), [({"a": 1, "b": 4}, "b run several conversions"), ({}, "has no workers")]
)
def test_workers_of_a_scheduler_have_one_thread_each(threads: dict[str, int], words: str) -> None:
    dask_engine = pytest.importorskip("converter.engine.dask_engine", reason="workers need convert-onnx[dask]")

    class Client:
        def run(self, function: Callable[[], str]) -> dict[str, str]:
            return {worker: function() for worker in threads}

        def nthreads(self) -> dict[str, int]:
            return threads

    with pytest.raises(UsageError, match=f"{words}.*one thread each"):
        dask_engine._require_same(Client(), "tcp://10.0.0.1:8786")


def test_what_cannot_travel_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")
    with pytest.raises(UsageError, match=r"cannot go to other processes: .*define a metric in a module"):
        Shelf.on(Storage(str(tmp_path))).put(lambda: None)
