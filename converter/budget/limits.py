"""Limits of a search: accuracy, bytes and latency of a file."""

from dataclasses import dataclass

from passes.arguments import require_number, whole
from passes.errors import UsageError

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """Limits of a file. None means no limit.

    Attributes:
        max_drop: Largest drop in percentage points: of top-1 accuracy against float, or of agreement with float if the
            images have no labels.
        max_bytes: Largest number of bytes of the file.
        max_latency: Largest number of milliseconds per image, batch 1, one thread.

    Raises:
        UsageError: No limit is given, or no file can keep a limit.
    """

    max_drop: float | None = None
    max_bytes: int | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None:
            require_number("max_drop", self.max_drop)
        if self.max_bytes is not None:
            object.__setattr__(self, "max_bytes", whole("max_bytes", self.max_bytes))
        if self.max_latency is not None:
            require_number("max_latency", self.max_latency)
        if self.max_drop is None and self.max_bytes is None and self.max_latency is None:
            raise UsageError("a budget needs a limit; give `max_drop=`, `max_bytes=` or `max_latency=`")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UsageError(f"`max_drop={self.max_drop:g}` is not within 0 to 100 points")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UsageError(f"`max_bytes={self.max_bytes}` allows no file; give at least 1")
        if self.max_latency is not None and not self.max_latency > 0:
            raise UsageError(f"`max_latency={self.max_latency:g}` is not a time; give milliseconds above 0")

    def __str__(self) -> str:
        limits = (
            None if self.max_drop is None else f"a drop of at most {self.max_drop:g} points",
            None if self.max_bytes is None else f"at most {self.max_bytes:,} bytes",
            None if self.max_latency is None else f"at most {self.max_latency:g} ms",
        )
        return " and ".join(limit for limit in limits if limit)

    @property
    def wants_smallest(self) -> bool:
        """Whether the search looks for the smallest file. It does if a drop is allowed and bytes are not limited."""
        return self.max_drop is not None and self.max_bytes is None

    def broken(self, drop: float | None, size: int, latency: float | None) -> str:
        """Describe the limits that are exceeded. The description is empty if none is."""
        exceeded = []
        if self.max_drop is not None and drop is not None and drop > self.max_drop + 1e-9:
            exceeded.append(f"drops {drop:.2f} points")
        if self.max_bytes is not None and size > self.max_bytes:
            exceeded.append(f"takes {size:,} bytes")
        if self.max_latency is not None and latency is not None and latency > self.max_latency:
            exceeded.append(f"takes {latency:.2f} ms")
        return ", ".join(exceeded)
