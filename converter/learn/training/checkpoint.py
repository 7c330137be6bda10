"""Checkpoint of a training run: a file from which an interrupted run goes on after the last finished epoch."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from converter.learn.training.objective import Score
from converter.learn.training_file import TrainingFile
from converter.model_io.scratch import replacing
from passes.errors import OutputError, UsageError

__all__ = ["Checkpoint", "TrainingState", "load", "require_own", "save"]

State = dict[str, Any]


@dataclass
class TrainingState:
    """State of a training run after ``epoch`` epochs: the present state, and the best state so far."""

    epoch: int
    network: State
    optimizer: State
    best: State
    best_epoch: int
    score: Score


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, and the training run that it must belong to.

    Attributes:
        file: The file. It need not exist.
        training: Digest of everything that determines the course of the training.
    """

    file: TrainingFile
    training: str


def require_own(file: TrainingFile) -> None:
    """Refuse a checkpoint file whose origin is not that of ``file``.

    Raises:
        UsageError: The file is not a checkpoint, or it belongs to another training run.
    """
    _, origin, _ = _read(file.path, torch.device("cpu"))
    if origin != file.origin:
        raise _of_another(file.path)


def load(checkpoint: Checkpoint, device: torch.device) -> TrainingState | None:
    """Read the state of the training run. None if there is no file.

    Raises:
        UsageError: The file is not a checkpoint, or it belongs to another training run.
    """
    path = checkpoint.file.path
    if not path.exists():
        return None
    progress, _, training = _read(path, device)
    if training != checkpoint.training:
        raise _of_another(path)
    return progress


def save(checkpoint: Checkpoint, progress: TrainingState) -> None:
    """Write the state to a temporary file beside the checkpoint, then rename it.

    Raises:
        OutputError: The file cannot be written.
    """
    path = checkpoint.file.path
    content = {**vars(progress), "origin": checkpoint.file.origin, "training": checkpoint.training}
    score = content.pop("score")
    content |= {"loss": score.loss, "share": score.share, "metric": score.metric, "shown": score.shown}
    whole = io.BytesIO()  # torch says of a full disk only that a position is unexpected
    torch.save(content, whole)
    try:
        with replacing(path) as written, written.open("wb") as stream:
            stream.write(whole.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; give `checkpoint=` another path") from error


def _read(path: Path, device: torch.device) -> tuple[TrainingState, str, str]:
    """Read a checkpoint file.

    Returns:
        The state of the training run, its origin and its digest.

    Raises:
        UsageError: The file is not a checkpoint.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        origin, training = (
            content.pop("origin", ""),
            content.pop("training"),
        )  # origin: none in files of earlier versions
        score = Score(content.pop("loss"), content.pop("share"), content.pop("metric", None), content.pop("shown", ""))
        return TrainingState(score=score, **content), origin, training
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path} cannot be read: {reason}; give another `checkpoint=`") from error
    except Exception as error:  # damaged files raise errors of many types
        kind = type(error).__name__
        raise UsageError(f"{path} is not a checkpoint ({kind}); delete it, or give another `checkpoint=`") from error


def _of_another(path: Path) -> UsageError:
    return UsageError(
        f"{path} belongs to another training (another model, data or settings); delete it, or give another "
        "`checkpoint=`"
    )
