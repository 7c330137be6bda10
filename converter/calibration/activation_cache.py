"""Cache of activations for sequential calibration. It holds them in memory up to a limit, and in files beyond it."""

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.model_io.scratch import scratch_folder
from passes.errors import OutputError

__all__ = ["ActivationCache", "Value"]

Value = NDArray[Any] | list[NDArray[Any]]
"""A tensor, or a sequence of tensors."""


@dataclass(frozen=True)
class _File:
    """An array in a file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> NDArray[Any]:
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)


class ActivationCache:
    """Batches of activations by stream and tensor name.

    It is a context manager. On exit it deletes its files.

    Args:
        memory_budget: Bytes to hold in memory. Later arrays go to files in the system's temporary folder.
    """

    def __init__(self, memory_budget: int) -> None:
        self.memory_budget = memory_budget
        self.spilled = 0
        self._bytes_in_memory = 0
        self._arrays: dict[tuple[str, str], list[Value | _File]] = {}
        self._files = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> "ActivationCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrays.clear()
        self._files.close()

    def append(self, stream: str, name: str, array: Value) -> None:
        """Add the next batch of a tensor. Sequences stay in memory."""
        held: Value | _File = array
        if isinstance(array, list):
            self._bytes_in_memory += sum(part.nbytes for part in array)
        elif self._bytes_in_memory + array.nbytes > self.memory_budget and array.nbytes > 1 << 16:
            held = self._spill(array)
        else:
            self._bytes_in_memory += array.nbytes
        self._arrays.setdefault((stream, name), []).append(held)

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether the cache holds the tensor ``(stream, name)``."""
        return key in self._arrays

    def get(self, stream: str, name: str, batch: int) -> Value:
        """One batch of a tensor. A file is mapped as long as the array is in use."""
        held = self._arrays[stream, name][batch]
        return held.read() if isinstance(held, _File) else held

    def release(self, stream: str, name: str) -> None:
        """Delete all batches of a tensor."""
        for array in self._arrays.pop((stream, name), []):
            if isinstance(array, list):
                self._bytes_in_memory -= sum(part.nbytes for part in array)
            elif isinstance(array, _File):
                array.path.unlink()
            else:
                self._bytes_in_memory -= array.nbytes

    def _spill(self, array: NDArray[Any]) -> _File:
        try:
            if self._folder is None:
                self._folder = self._files.enter_context(scratch_folder())
            self.spilled += 1
            path = self._folder / f"{self.spilled}.bin"
            np.ascontiguousarray(array).tofile(path)
        except OSError as error:
            raise OutputError(
                f"cannot write {array.nbytes} bytes of activations to {tempfile.gettempdir()}: {error.strerror}; "
                "use fewer samples (`limit=`) or set TMPDIR to a larger disk"
            ) from error
        return _File(path, array.dtype, array.shape)
