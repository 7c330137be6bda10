"""Where a training stands, in a file: after a kill the next run goes on from the last epoch that ended."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converter.learn.training.objective import Score
from converter.learn.training_file import TrainingFile
from passes.errors import OutputError, UsageError

__all__ = ["Checkpoint", "TrainingState", "load", "require_own", "save"]

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
        file: which need not exist.
        training: a digest of everything that decides the training's course.
    """

    file: TrainingFile
    training: str


def require_own(file: TrainingFile) -> None:
    """Refuse a file that holds no training of that origin.

    Raises:
        UsageError: the file is no checkpoint, or that of another training.
    """
    _, origin, _ = _read(file.path, torch.device("cpu"))
    if origin != file.origin:
        raise _of_another(file.path)


def load(checkpoint: Checkpoint, device: torch.device) -> TrainingState | None:
    """Where the training stands; None if there is no file.

    Raises:
        UsageError: the file is no checkpoint, or that of another training.
    """
    path = checkpoint.file.path
    if not path.exists():
        return None
    progress, _, training = _read(path, device)
    if training != checkpoint.training:
        raise _of_another(path)
    return progress


def save(checkpoint: Checkpoint, progress: TrainingState) -> None:
    """Write the file beside its name, then rename it.

    Raises:
        OutputError: it cannot be written.
    """
    path = checkpoint.file.path
    content = {**vars(progress), "origin": checkpoint.file.origin, "training": checkpoint.training}
    score = content.pop("score")
    content |= {"loss": score.loss, "share": score.share}
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                torch.save(content, stream)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"{path}: {reason}; give `checkpoint=` a place that can be written") from error


def _read(path: Path, device: torch.device) -> tuple[TrainingState, str, str]:
    """What the file holds: where a training stands, its origin and its digest.

    Raises:
        UsageError: the file is no checkpoint.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        origin, training = content.pop("origin", ""), content.pop("training")  # none in files of earlier versions
        score = Score(content.pop("loss"), content.pop("share"))
        return TrainingState(score=score, **content), origin, training
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path} cannot be read: {reason}; give another `checkpoint=`") from error
    except Exception as error:  # a damaged file raises many types
        kind = type(error).__name__
        raise UsageError(f"{path} is not a checkpoint ({kind}); delete it, or give another `checkpoint=`") from error


def _of_another(path: Path) -> UsageError:
    return UsageError(
        f"{path} is of another training (other model, data or settings); delete it, or give another `checkpoint=`"
    )
