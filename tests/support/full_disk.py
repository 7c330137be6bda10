"""A disk that is full from the N-th step on: opening, writing, syncing, renaming a file, or making a folder."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FullDisk"]


class FullDisk:
    """Count the steps that take space under a folder, and let them fail from one on.

    Args:
        root: The folder. Files elsewhere do not count.
        patch: Puts the functions of the system back at the end.
        first: Number of the first step that fails. 0: none does.
        lasting: Whether all later steps fail too.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, first: int = 0, *, lasting: bool = True) -> None:
        self.root, self.first, self.lasting = str(root), first, lasting
        self.steps: list[str] = []
        self._open = io.open
        for name, path in (("mkdir", 0), ("replace", 1), ("rename", 1), ("fsync", 0), ("write", 0), ("pwrite", 0)):
            patch.setattr(os, name, self._failing(name, getattr(os, name), path))
        patch.setattr(os, "open", self._failing_open(os.open))
        patch.setattr(io, "open", self._opened)
        patch.setattr(builtins, "open", self._opened)

    def step(self, what: str, path: Any, *, named: bool) -> None:
        """Count a step, and fail if it is its turn. What has a file only as a number fails without its name."""
        place = str(Path(os.fsdecode(path)).absolute()) if isinstance(path, str | bytes | os.PathLike) else ""
        if not place.startswith(self.root):
            return
        self.steps.append(f"{what} {place}")
        late = len(self.steps) >= self.first if self.lasting else len(self.steps) == self.first
        if self.first and late:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([place] if named else []))

    def _failing(self, name: str, real: Callable[..., Any], place: int) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            path = arguments[place]
            number = isinstance(path, int)
            self.step(name, _path_of(path) if number else path, named=not number)
            return real(*arguments, **options)

        return called

    def _failing_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def called(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & (os.O_CREAT | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY):
                self.step("open", path, named=True)
            return real(path, flags, *arguments, **options)

        return called

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, *settings: Any, **named: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return self._open(file, mode, buffering, *settings, **named)
        text = dict(zip(("encoding", "errors", "newline"), settings, strict=False)) | named
        how = {key: text.pop(key) for key in ("closefd", "opener") if key in text}
        self.step("open", file, named=True)
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""), **how)
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, **text)


class _Raw(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, disk: FullDisk, file: Any, mode: str, **how: Any) -> None:
        super().__init__(file, mode, **how)
        self._disk = disk

    def write(self, data: Any, /) -> int:
        self._disk.step("write", _path_of(self.fileno()) or self._disk.root, named=False)
        return super().write(data)


def _path_of(number: int) -> str:
    """The path of an open file, which has none if it was removed."""
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""
