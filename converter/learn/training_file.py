"""File that holds the state of a training run."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TrainingFile"]


@dataclass(frozen=True)
class TrainingFile:
    """File from which an interrupted training run can continue.

    Attributes:
        path: Path of the file. The file need not exist.
        origin: Digest of the caller's arguments that determine the training.
    """

    path: Path
    origin: str
