"""Engine on Dask: local processes, or the workers of a scheduler.

A task whose worker dies is given to another one. After `_DEATHS` deaths it is lost: its own memory is the likely cause.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed
from distributed.utils import silence_logging_cmgr

from converter.cache.source_digest import source_digest
from converter.engine.engine import Lost, Task
from converter.engine.shelf import Shelf
from converter.engine.storage import Storage
from converter.model_io.scratch import scratch_folder
from converter.runtime.freed_memory import kept_by_children
from converter.runtime.session import THREADS, available_threads
from passes.errors import ConvertError, UsageError, first_line

__all__ = ["DaskEngine", "local_engine", "remote_engine"]

_DEATHS = 3
_WAIT = 30  # seconds for a scheduler to answer
_SETTINGS = {
    "distributed.scheduler.allowed-failures": _DEATHS - 1,
    "distributed.worker.daemon": False,  # a task may start processes
    "distributed.comm.timeouts.connect": f"{_WAIT}s",
}
_ENVIRONMENT, _TRIM = "distributed.nanny.pre-spawn-environ", "MALLOC_TRIM_THRESHOLD_"
_TRIM_OF_DASK = 65536  # bytes, by default: every matrix would then take new pages, at twice the processor time


class DaskEngine:
    """Tasks on the workers of a client.

    Args:
        client: The client.
        storage: Storage of large arguments and results.
        name: What messages call the scheduler.
        shares_disk: Whether the workers see the files of this process.
    """

    def __init__(self, client: Client, storage: Storage, *, name: str, shares_disk: bool) -> None:
        self._client = client
        self._name = name
        self.shares_disk = shares_disk
        self.shelf = Shelf.on(storage)

    @property
    def workers(self) -> int:
        """Number of tasks that run at the same time."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def results(self, work: Callable[[Task], Any], tasks: Sequence[Task], lost: Lost) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task and its result, in the order in which they are done.

        Raises:
            ConvertError: The scheduler is gone.
        """
        waiting = {self._client.submit(_run, work, task, pure=False): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(list(waiting)):
                index = waiting.pop(future)
                try:
                    result = future.result()
                except KilledWorker as error:
                    deaths = error.allowed_failures + 1
                    result = lost(tasks[index], f"{deaths} workers died of it, most likely for lack of memory")
                except CancelledError as error:
                    raise ConvertError(
                        f"{self._name} ended before the work was done; start it and call this again"
                    ) from error
                yield index, result
        finally:
            self._client.cancel(list(waiting))


def _run(work: Callable[[Task], Any], task: Task) -> Any:
    """Run a task in a worker, whose warnings are not for its terminal."""
    log = logging.getLogger("converter")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    return work(task)


@contextmanager
def local_engine(count: int, memory: int | None) -> Iterator[DaskEngine]:
    """Yield an engine of local processes, which end with the `with` block.

    Each runs one task at a time, and onnxruntime in it takes an equal part of this process's processors. Each keeps
    freed memory if this process does.

    Args:
        count: Number of processes.
        memory: Bytes that each may take. None: an equal part of the machine's.
    """
    environment = dict(dask.config.get(_ENVIRONMENT))
    if environment.get(_TRIM) == _TRIM_OF_DASK:
        del environment[_TRIM]
    environment |= kept_by_children() | {THREADS: max(1, available_threads() // count)}
    with (
        _environment_of_this_process() as restore,
        scratch_folder() as folder,
        dask.config.set(_SETTINGS | {_ENVIRONMENT: environment}),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit="auto" if memory is None else memory,
            dashboard_address=None,
            local_directory=str(folder),
            silence_logs=50,  # what a worker has to say is in the error of its task
        ) as cluster,
        Client(cluster) as client,
    ):
        restore()
        yield DaskEngine(client, Storage(str(folder)), name="the scheduler of `workers=`", shares_disk=True)


@contextmanager
def _environment_of_this_process() -> Iterator[Callable[[], None]]:
    """Restore the variables that Dask sets in this process for those that it starts, at the end or when called.

    Its own value of one variable is taken out first: another cluster left it here, and Dask prefers it to a new one.
    """
    before = dict(os.environ)
    if before.get(_TRIM) == str(_TRIM_OF_DASK):
        del os.environ[_TRIM]

    def restore() -> None:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)

    try:
        yield restore
    finally:
        restore()


@contextmanager
def remote_engine(address: str, storage: Storage) -> Iterator[DaskEngine]:
    """Yield an engine of the workers of a scheduler. They must have this version of the package.

    Args:
        address: Address of the scheduler.
        storage: Storage that all workers can read and write.

    Raises:
        UsageError: The scheduler does not answer, has no workers, or they have another version of the package.
    """
    with dask.config.set(_SETTINGS), silence_logging_cmgr(logging.CRITICAL):  # a lost scheduler is an error of ours
        try:
            client = Client(address, timeout=_WAIT)
        except OSError as error:
            raise UsageError(f"`scheduler={address}` does not answer: {first_line(error)}") from error
        with client:
            _require_same(client, address)
            engine = DaskEngine(client, storage, name=f"`scheduler={address}`", shares_disk=False)
            try:
                yield engine
            finally:
                engine.shelf.clear()


def _require_same(client: Client, address: str) -> None:
    try:
        digests = client.run(source_digest)
    except ModuleNotFoundError as error:
        raise UsageError(f"`scheduler={address}`: its workers lack this package: {first_line(error)}") from error
    if not digests:
        raise UsageError(f"`scheduler={address}` has no workers; start some with `dask worker`, one thread each")
    if wide := sorted(worker for worker, threads in client.nthreads().items() if threads != 1):
        raise UsageError(
            f"`scheduler={address}`: {', '.join(wide)} run several conversions in one process, which share its threads "
            "and warnings; start `dask worker` with one thread each (nthreads 1)"
        )
    others = sorted(worker for worker, digest in digests.items() if digest != source_digest())
    if others:
        raise UsageError(
            f"`scheduler={address}`: {', '.join(others)} have another version of convert-onnx; install this one"
        )
