"""Large values that tasks and results name, so that they do not pass the scheduler.

A value is pickled into the storage, as tasks are pickled by the scheduler. So who can write to the storage can run code
on the workers, like those who can reach the scheduler. Keep both to yourself.
"""

import copyreg
import functools
import pickle
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converter.engine.storage import Storage
from converter.model_io.scratch import scratch_folder
from passes.errors import UsageError, first_line

__all__ = ["Item", "Shelf"]


@dataclass(frozen=True)
class Item:
    """A value on a shelf.

    Attributes:
        name: Its name.
        value: The value, on a shelf without storage.
    """

    name: str
    value: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Shelf:
    """Values by item.

    Attributes:
        storage: Storage of the values. None: they stay in this process.
        folder: Folder in the storage.
    """

    storage: Storage | None = None
    folder: str = ""

    @classmethod
    def on(cls, storage: Storage) -> "Shelf":
        """Return a shelf in a new folder of a storage."""
        return cls(storage, f"values-{uuid.uuid4().hex}")

    def put(self, value: Any) -> Item:
        """Put a value on the shelf.

        Raises:
            OutputError: The storage cannot be written.
            UsageError: The value cannot go to another process.
        """
        name = f"{self.folder}/{uuid.uuid4().hex}"
        if self.storage is None:
            return Item(name, value)
        with scratch_folder() as here:
            path = here / "value"
            try:
                with path.open("wb") as file:
                    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise UsageError(
                    f"`workers=`: something of yours cannot go to other processes: {first_line(error)}; define a "
                    "metric in a module, or leave `workers=` out"
                ) from error
            self.storage.put(path, name)
        return Item(name)

    def get(self, item: Item) -> Any:
        """Return the value of an item.

        Raises:
            OutputError: The storage cannot be read.
        """
        return item.value if self.storage is None else _loaded(self.storage, item.name)

    def kept(self, item: Item) -> Any:
        """Return the value of an item, which this process keeps for its next tasks."""
        return item.value if self.storage is None else _kept(self.storage, item.name)

    def clear(self) -> None:
        """Remove all values."""
        if self.storage is not None:
            self.storage.remove(self.folder)


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def _reduced(mapping: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _read_only, (dict(mapping),)


class _Pickler(pickle.Pickler):
    """Pickles read-only mappings too, which the rules of targets have."""

    dispatch_table = copyreg.dispatch_table | {MappingProxyType: _reduced}


def _loaded(storage: Storage, name: str) -> Any:
    with scratch_folder() as here:
        path = Path(here) / "value"
        storage.get(name, path)
        with path.open("rb") as file:
            return pickle.load(file)


_kept = functools.lru_cache(maxsize=1)(_loaded)
