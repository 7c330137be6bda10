"""What training learns from and is judged by: labels, or the float network's outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Score", "is_classifier", "loss", "scored"]

Tensors = Mapping[str, Tensor]


def loss(kind: Literal["labels", "float"], found: Tensors, teacher: Tensors, labels: Tensor | None) -> Tensor:
    """The mean over a batch.

    ``labels``: cross-entropy of the first output. ``float``: the Kullback-Leibler divergence from the float network's
    class probabilities (Hinton et al. 2015, §2) and the scores' relative error where the output is a classifier's;
    other outputs' squared error over the variance of the float network's.
    """
    if kind == "labels" and labels is not None:
        return F.cross_entropy(_scores(found), labels)
    if is_classifier(teacher):
        logits, wanted = _scores(found), _scores(teacher)
        divergence = F.kl_div(
            F.log_softmax(logits, 1), F.log_softmax(wanted, 1), log_target=True, reduction="batchmean"
        )
        return divergence + _error(logits, wanted)
    return torch.stack([_error(found[name], value) for name, value in teacher.items()]).mean()


@dataclass(frozen=True)
class Score:
    """What the held-out images say.

    Attributes:
        loss: mean.
        share: of images whose class is right (with labels) or the float network's; None for other outputs.
    """

    loss: float
    share: float | None

    def better_than(self, other: "Score") -> bool:
        """More images right, or as many at a smaller loss."""
        if self.share is None or other.share is None or self.share == other.share:
            return self.loss < other.loss
        return self.share > other.share

    def __str__(self) -> str:
        return f"loss {self.loss:.4g}" if self.share is None else f"{100 * self.share:.2f} %"


def scored(found: Tensors, teacher: Tensors, labels: Tensor | None) -> Tensor | None:
    """Which images of a batch have the right class, ``[n]`` of bool; None where outputs are not scores of classes."""
    if not is_classifier(teacher):
        return None
    return _scores(found).argmax(1) == (_scores(teacher).argmax(1) if labels is None else labels)


def is_classifier(outputs: Tensors) -> bool:
    """Whether there is one output, ``[n, classes]`` or that with axes of size 1 behind it."""
    first = next(iter(outputs.values()))
    return len(outputs) == 1 and first.ndim >= 2 and first.shape[1] > 1 and first[0].numel() == first.shape[1]


def _scores(outputs: Tensors) -> Tensor:
    """The first output as ``[n, classes]``."""
    return next(iter(outputs.values())).flatten(1)


def _error(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().mean() / wanted.var(unbiased=False).clamp_min(1e-20)
