"""The file in which a training keeps its state."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TrainingFile"]


@dataclass(frozen=True)
class TrainingFile:
    """A file in which a training keeps where it stands.

    Attributes:
        path: of the file, which need not exist.
        origin: a digest of what the call gave that the training follows from.
    """

    path: Path
    origin: str
