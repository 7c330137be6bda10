"""The workers that a caller asks for, and the engine that they make."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from converter.engine.engine import Engine, InProcess
from converter.engine.storage import Storage
from converter.model_io.operator_libraries import libraries
from passes.arguments import require_type, whole
from passes.errors import UsageError

__all__ = ["Workers", "opened"]

_EXTRA = "needs dask; install convert-onnx[dask]"
_LOCAL = ("tcp://", "tls://", "ws://", "wss://")


@dataclass(frozen=True)
class Workers:
    """Processes that share the work.

    Local processes import the script that starts them. So it calls the library below ``if __name__ == "__main__":``.

    Attributes:
        count: Number of local processes. 1: this process alone.
        scheduler: Address of a Dask scheduler, such as ``tcp://10.0.0.1:8786``, in place of local processes.
        storage: Folder or fsspec address that all workers of the scheduler can read and write. Models, data and files
            go through it, and not through the scheduler.
        memory: Bytes of memory that each local process may take. It is started again when it takes more, and its task
            is retried. None: an equal part of the machine's.

    Raises:
        UsageError: The values make no sense together, or Dask is not installed.
    """

    count: int = 1
    scheduler: str | None = None
    storage: str | Path | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("workers", self.count))
        if self.count < 1:
            raise UsageError(f"`workers={self.count}` does no work; use at least 1")
        if self.memory is not None:
            object.__setattr__(self, "memory", whole("worker_memory", self.memory))
            if self.memory < 1:
                raise UsageError(f"`worker_memory={self.memory}` is no number of bytes above 0")
            if self.count == 1:
                raise UsageError(f"`worker_memory={self.memory}` has no effect without `workers=` of 2 or more")
        if self.storage is not None:
            require_type("storage", self.storage, (str, Path), "a folder or an fsspec address")
            if "://" not in str(self.storage):  # workers may have another current folder
                object.__setattr__(self, "storage", Path(self.storage).absolute())
        if self.scheduler is None:
            if self.storage is not None:
                raise UsageError(f"`storage={self.storage}` has no effect without `scheduler=`; leave it out")
        else:
            self._check_scheduler(self.scheduler)
        if self.several and importlib.util.find_spec("distributed") is None:
            raise UsageError(f"{self.given} {_EXTRA}")

    @property
    def given(self) -> str:
        """The argument that asks for other processes, for messages."""
        return f"`workers={self.count}`" if self.scheduler is None else f"`scheduler={self.scheduler}`"

    @property
    def several(self) -> bool:
        """Whether other processes do the work."""
        return self.count > 1 or self.scheduler is not None

    def _check_scheduler(self, address: str) -> None:
        require_type("scheduler", address, str, "an address such as tcp://10.0.0.1:8786")
        if not address.startswith(_LOCAL):
            raise UsageError(f"`scheduler={address}` is no address such as tcp://10.0.0.1:8786")
        if self.count != 1:
            raise UsageError(f"`workers={self.count}` has no effect with `scheduler=`, which has its own; leave it out")
        if self.storage is None:
            raise UsageError(
                f"`scheduler={address}` needs `storage=`: a folder or an fsspec address that its workers can read and "
                "write"
            )


@contextmanager
def opened(workers: Workers) -> Iterator[Engine]:
    """Yield the engine. Local processes end with the `with` block.

    Raises:
        UsageError: The scheduler does not answer.
        OutputError: The storage cannot be written.
    """
    if not workers.several:
        yield InProcess()
        return
    if libraries():
        raise UsageError("`custom_ops=` are known to this process only; leave `workers=` and `scheduler=` out")
    from converter.engine.dask_engine import local_engine, remote_engine

    if workers.scheduler is None:
        with local_engine(workers.count, workers.memory) as engine:
            yield engine
        return
    assert workers.storage is not None
    storage = Storage(str(workers.storage))
    storage.require_writable()
    with remote_engine(workers.scheduler, storage) as engine:
        yield engine
