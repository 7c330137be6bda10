"""How a conversion is done, apart from what it makes: images, seed, device, memory, and a place to go on from."""

from dataclasses import dataclass
from pathlib import Path

from converter.calibration.sequential import DEFAULT_BUDGET
from passes.base import Device
from passes.errors import UsageError

__all__ = ["Settings"]

_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Settings:
    """How a conversion is done. A field that is None leaves the choice to the recipe.

    Attributes:
        limit: calibration images used.
        seed: random seed.
        device: where passes learn. It is refused where no pass learns.
        measure_speed: leave activations in float where this machine runs the file faster so. The recipe in the result
            says which, and gives the same file without measuring.
        memory_budget: bytes of activations that are held in memory before files are used.
        checkpoint: file in which a training keeps where it stands, so that the same call goes on after a kill.

    Raises:
        UsageError: a value that nothing can be done with.
    """

    limit: int | None = None
    seed: int | None = None
    device: Device | None = None
    measure_speed: bool = False
    memory_budget: int = DEFAULT_BUDGET
    checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"`limit={self.limit}` leaves no images; use at least 1")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"`seed={self.seed}` is negative; use 0 or more")
        if self.device is not None and self.device not in _DEVICES:
            raise UsageError(f"`device={self.device!r}` is none of {', '.join(_DEVICES)}")
        if self.memory_budget < 1:
            raise UsageError(f"`memory_budget={self.memory_budget}` leaves no memory; give bytes, at least 1")
