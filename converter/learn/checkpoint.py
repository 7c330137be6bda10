"""Where a training stands, in a file: after a kill the next run goes on from the last epoch that ended."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converter.learn.objective import Score
from passes.errors import OutputError, UsageError

__all__ = ["Checkpoint", "TrainingState", "load", "save"]

State = dict[str, Any]


@dataclass
class TrainingState:
    """A training after ``epoch`` epochs: what it is now, and the best it has been."""

    epoch: int
    network: State
    optimizer: State
    best: State
    best_epoch: int
    score: Score


@dataclass(frozen=True)
class Checkpoint:
    """A file, and the training it may hold.

    Attributes:
        path: of the file, which need not exist.
        training: a digest of everything that decides the training's course.
    """

    path: Path
    training: str


def load(checkpoint: Checkpoint, device: torch.device) -> TrainingState | None:
    """Where the training stands; None if there is no file.

    Raises:
        UsageError: the file is no checkpoint, or that of another training.
    """
    path = checkpoint.path
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        found = content.pop("training")
        share = content.pop("share")
        progress = TrainingState(score=Score(content.pop("loss"), share), **content)
    except Exception as error:  # a damaged file raises many types
        kind = type(error).__name__
        raise UsageError(f"{path} is not a checkpoint ({kind}); delete it, or give another --checkpoint") from error
    if found != checkpoint.training:
        raise UsageError(
            f"{path} is of another training (other model, data or settings); delete it, or give another --checkpoint"
        )
    return progress


def save(checkpoint: Checkpoint, progress: TrainingState) -> None:
    """Write the file beside its name, then rename it.

    Raises:
        OutputError: it cannot be written.
    """
    content = {**vars(progress), "training": checkpoint.training}
    score = content.pop("score")
    content |= {"loss": score.loss, "share": score.share}
    try:
        handle, name = tempfile.mkstemp(prefix=f".{checkpoint.path.name}-", dir=checkpoint.path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                torch.save(content, stream)
            Path(name).replace(checkpoint.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"{checkpoint.path}: {reason}; give --checkpoint a place that can be written") from error
