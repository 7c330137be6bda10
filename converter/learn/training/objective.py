"""Objective of training: the loss and the score, from labels or from the float network's outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Score", "is_classifier", "loss", "scored"]

Tensors = Mapping[str, Tensor]


def loss(kind: Literal["labels", "float"], outputs: Tensors, teacher: Tensors, labels: Tensor | None) -> Tensor:
    """Loss of a batch, averaged over its images.

    With ``labels``, it is the cross-entropy of the first output. With ``float``, it depends on the output. For a
    classifier's, it is the Kullback-Leibler divergence from the float network's class probabilities (Hinton et al.
    2015, §2) plus the relative error of the scores. For others, it is the squared error over the variance of the float
    network's output.

    Args:
        kind: What the network learns from.
        outputs: Outputs of the quantized network, by name.
        teacher: Outputs of the float network, by name.
        labels: Class of every image, shape ``[n]``, or None.
    """
    if kind == "labels" and labels is not None:
        return F.cross_entropy(_scores(outputs), labels)
    if is_classifier(teacher):
        logits, expected = _scores(outputs), _scores(teacher)
        divergence = F.kl_div(
            F.log_softmax(logits, 1), F.log_softmax(expected, 1), log_target=True, reduction="batchmean"
        )
        return divergence + _relative_error(logits, expected)
    return torch.stack([_relative_error(outputs[name], value) for name, value in teacher.items()]).mean()


@dataclass(frozen=True)
class Score:
    """Result on the held-out samples.

    Attributes:
        loss: Mean loss.
        share: Share of images with the right class. Without labels, the float network's class counts as right. None if
            the output is not a classifier's.
        metric: Value of the metric that chooses, higher is better, or None.
        shown: The metric's value in words.
    """

    loss: float
    share: float | None
    metric: float | None = None
    shown: str = ""

    def better_than(self, other: "Score") -> bool:
        """Whether the metric is better, or more images are right, or both are equal at a smaller loss."""
        if self.metric is not None and other.metric is not None:
            return self.metric > other.metric or (self.metric == other.metric and self.loss < other.loss)
        if self.share is None or other.share is None or self.share == other.share:
            return self.loss < other.loss
        return self.share > other.share

    def __str__(self) -> str:
        if self.metric is not None:
            return self.shown
        return f"loss {self.loss:.4g}" if self.share is None else f"{100 * self.share:.2f} %"


def scored(outputs: Tensors, teacher: Tensors, labels: Tensor | None) -> Tensor | None:
    """Which images of a batch have the right class, ``[n]`` of bool. None if the output is not a classifier's.

    Without labels, the float network's class counts as right.
    """
    if not is_classifier(teacher):
        return None
    return _scores(outputs).argmax(1) == (_scores(teacher).argmax(1) if labels is None else labels)


def is_classifier(outputs: Tensors) -> bool:
    """Whether there is one output of shape ``[n, classes]``, which further axes of size 1 may follow."""
    first = next(iter(outputs.values()))
    return len(outputs) == 1 and first.ndim >= 2 and first.shape[1] > 1 and first[0].numel() == first.shape[1]


def _scores(outputs: Tensors) -> Tensor:
    """The first output as ``[n, classes]``."""
    return next(iter(outputs.values())).flatten(1)


def _relative_error(output: Tensor, expected: Tensor) -> Tensor:
    return (output - expected).square().mean() / expected.var(unbiased=False).clamp_min(1e-20)
