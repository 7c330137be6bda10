"""Quantization-aware training of a whole network.

`passes.weights.qat` describes the method, and `converter.learn.training.lsq` the quantizers.
"""

import copy
import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from converter.data.dataset import Dataset
from converter.learn.device import find_device
from converter.learn.held_out import HeldOut, hold_out
from converter.learn.training import checkpoint as checkpoints
from converter.learn.training.checkpoint import Checkpoint
from converter.learn.training.coverage import Coverage
from converter.learn.training.images import ImageBatch, augmented, epoch_batches, in_order
from converter.learn.training.objective import Score, is_classifier, loss, scored
from converter.learn.training.trained_network import TrainedNetwork
from converter.learn.training_file import TrainingFile
from converter.metrics.metric_run import MetricRun
from converter.runtime.session import Progress
from passes.errors import DataError, QuantizationError, UsageError
from passes.ir.model import Model
from passes.numerics.error import decibel
from passes.report import Change, CoveredRange, PassReport
from passes.weights.qat import FROM_FLOAT, Qat

__all__ = ["train_network"]

_LOG = logging.getLogger(__name__)

_EVALUATED = 64  # images per batch without gradients
_COMPARED = 256  # held-out samples on which the layers' errors are measured
_FEW = 32  # held-out samples; with fewer, one image that changes its class is at least 3 percentage points


def train_network(
    model: Model,
    settings: Qat,
    data: Dataset,
    progress: Progress,
    *,
    seed: int,
    checkpoint: TrainingFile | None = None,
    metric: Any = None,
) -> PassReport:
    """Train the model. It does not change unless the result on held-out samples improves.

    Args:
        model: Quantized by a layer pass. It changes in place.
        settings: The pass.
        data: Training images, with or without labels.
        progress: Called after every step.
        seed: Random seed of the held-out samples and of the order of the others.
        checkpoint: File that receives the state of the training after every epoch. If it exists, the training goes on
            from it.
        metric: Metric that chooses the best epoch, see `converter.metrics.registry.find_metric`. None: the share of
            right classes, or else the loss.

    Returns:
        The report of the pass.

    Raises:
        QuantizationError: No layer is quantized yet, an operator cannot be trained, or the settings require a CUDA
            device and there is none.
        DataError: The settings require labels, and the output is not a classifier's.
        UsageError: The checkpoint belongs to another training run.
        OutputError: The checkpoint cannot be written.
    """
    started = time.perf_counter()
    if not model.quantized:
        raise QuantizationError(f"{settings.name} trains quantized layers; put it after gptq or rtn in the recipe")
    training = _Training(model, settings, data, seed, find_device(settings.device, settings.name), metric)
    state = None if checkpoint is None else Checkpoint(checkpoint, training.digest())
    before = training.layer_errors()
    start, best, epoch = training.run(progress, state)
    return training.report(start, best, epoch, before, time.perf_counter() - started)


class _Training:
    """The network, its images and its optimizer."""

    def __init__(
        self, model: Model, settings: Qat, data: Dataset, seed: int, device: torch.device, metric: Any
    ) -> None:
        self.settings, self.data, self.seed, self.device = settings, data, seed, device
        self.float_reasons = dict(model.float_reasons)
        self.split: HeldOut = hold_out(len(data), settings.held_out, seed)
        sample = next(in_order(data, self.split.train[:_EVALUATED], _EVALUATED, torch.device("cpu"))).inputs
        self.network = TrainedNetwork(model, sample, learn_activations=settings.learn_activations).on(device)
        self.size = min(settings.batch, len(self.split.train))
        self.steps = len(self.split.train) // self.size
        self.objective: Literal["labels", "float"] = self._objective(sample)
        parameters = list(self.network.parameters())
        self.metric = self._usable(metric)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=settings.rate, momentum=settings.momentum)
            if settings.optimizer == "sgd"
            else torch.optim.Adam(parameters, lr=settings.rate)
        )

    def _objective(self, sample: Mapping[str, Tensor]) -> Literal["labels", "float"]:
        """Labels if the settings require them, or if there are labels and the output is a classifier's."""
        wanted = self.settings.objective
        classes = is_classifier(self.network.teacher(_on(sample, self.device)))
        if wanted == "labels" and not classes:
            raise DataError(f"{self.data.source} has labels, but the output is not that of a classifier; {FROM_FLOAT}")
        if wanted == "labels" or (wanted == "auto" and classes and self.data.labels is not None):
            return "labels"
        return "float"

    def _usable(self, metric: Any) -> Any:
        """Return the metric if the training images have the labels that it needs. Else say so, and return None."""
        if metric is None:
            return None
        few = next(in_order(self.data, self.split.judge[:1], 1, self.device))
        with torch.no_grad():
            outputs = _arrays(self.network.teacher(few.inputs))
        try:
            MetricRun(metric, 1).update([outputs], few.truth)
        except UsageError as error:
            _LOG.warning(f"the metric does not choose the best epoch: {error}")
            return None
        return metric

    def run(self, progress: Progress, checkpoint: Checkpoint | None) -> tuple[Score, Score, int]:
        """Train the network, and bring it to its best state.

        Returns:
            The score before training, the best score, and the number of epochs after which it was reached.
        """
        if len(self.split.judge) < _FEW:
            _LOG.warning(f"only {len(self.split.judge)} held-out samples choose the best epoch; give more samples")
        start = self._score()
        best, best_epoch, state = start, 0, copy.deepcopy(self.network.state_dict())
        done = 0
        saved = None if checkpoint is None else checkpoints.load(checkpoint, self.device)
        if checkpoint is not None and saved is not None:
            self.network.load_state_dict(saved.network)
            self.optimizer.load_state_dict(saved.optimizer)
            best, best_epoch, state, done = saved.score, saved.best_epoch, saved.best, saved.epoch
            _LOG.warning(f"continuing from {checkpoint.file.path}, after epoch {done} of {self.settings.epochs}")
        for epoch in range(done, self.settings.epochs):
            self._epoch(epoch, progress)
            score = self._score()
            if score.better_than(best):  # never true of NaN
                best, best_epoch, state = score, epoch + 1, copy.deepcopy(self.network.state_dict())
            if checkpoint is not None:
                network, optimizer = self.network.state_dict(), self.optimizer.state_dict()
                checkpoints.save(
                    checkpoint, checkpoints.TrainingState(epoch + 1, network, optimizer, state, best_epoch, best)
                )
        self.network.load_state_dict(state)
        return start, best, best_epoch

    def _epoch(self, epoch: int, progress: Progress) -> None:
        settings = self.settings
        draws = np.random.default_rng([self.seed, epoch, 1])
        total = settings.epochs * self.steps
        batches = epoch_batches(self.data, self.split.train, self.size, [self.seed, epoch], self.device)
        for step, batch in enumerate(batches, start=epoch * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = settings.rate * 0.5 * (1 + math.cos(math.pi * step / total))
            images = batch
            if settings.flip or settings.shift:
                images = ImageBatch(augmented(batch.inputs, settings.flip, settings.shift, draws), batch.labels)
            value = self._loss(images)
            if not torch.isfinite(value):
                raise QuantizationError(
                    f"the loss of the training is {value.item()} in epoch {epoch + 1}; "
                    f"use a `rate=` below {settings.rate:g}"
                )
            self.optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            if settings.optimizer == "sgd":
                self._normalise_gradients()
            self.optimizer.step()
            self.network.confine()
            progress(settings.name, step + 1, total)

    @torch.no_grad()
    def _normalise_gradients(self) -> None:
        """Scale each gradient tensor to mean square 1: the rate becomes the size of a step (LARS, You et al. 2017)."""
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad /= parameter.grad.square().mean().sqrt() + 1e-30

    def _loss(self, images: ImageBatch) -> Tensor:
        teacher = {} if self.objective == "labels" else self.network.teacher(images.inputs)
        return loss(self.objective, self.network(images.inputs), teacher, images.labels)

    @torch.no_grad()
    def _score(self) -> Score:
        total, right, count = 0.0, 0, 0
        has_classes: bool = True
        measure = None if self.metric is None else MetricRun(self.metric, 2)
        for images in in_order(self.data, self.split.judge, _EVALUATED, self.device):
            outputs, teacher = self.network(images.inputs), self.network.teacher(images.inputs)
            labels = images.labels if self.objective == "labels" else None
            total += float(loss(self.objective, outputs, teacher, labels)) * len(images)
            if measure is not None:
                measure.update([_arrays(teacher), _arrays(outputs)], images.truth)
            hits = scored(outputs, teacher, labels)
            has_classes = has_classes and hits is not None
            right += 0 if hits is None else int(hits.sum())
            count += len(images)
        share = right / count if has_classes else None
        if measure is None:
            return Score(total / count, share)
        value, facts = measure.values()[1], measure.facts
        assert value is not None  # only the first model's may be
        shown = f"{facts.name} {facts.shown(value)}"
        return Score(total / count, share, value if facts.higher_is_better else -value, shown)

    @torch.no_grad()
    def layer_errors(self) -> dict[str, float]:
        """Signal-to-noise ratio of each layer's output against the float network's, in dB, on held-out samples."""
        outputs = {layer.output: name for name, layer in self.network.layers.items()}
        signal, noise = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
        for images in in_order(self.data, self.split.judge[:_COMPARED], _EVALUATED, self.device):
            expected, actual = _Recorder(outputs), _Recorder(outputs)
            self.network.teacher(images.inputs, expected)
            self.network(images.inputs, actual)
            for name, value in expected.tensors.items():
                signal[name] += float(value.double().square().sum())
                noise[name] += float((value.double() - actual.tensors[name].double()).square().sum())
        return {layer: decibel(signal[name], noise[name]) for name, layer in outputs.items()}

    def report(self, start: Score, best: Score, epoch: int, before: dict[str, float], seconds: float) -> PassReport:
        """The report of the pass, when the network is in its best state."""
        what = "right" if self.objective == "labels" else "as the float network"
        unit = what if best.share is not None else "to the float network"
        judged = f"{start} -> {best} {unit} of {len(self.split.judge)} held-out samples"
        if start.metric is not None:
            judged = f"{start} -> {best} on {len(self.split.judge)} held-out samples"
        elif best.share is not None and best.share == start.share:  # then the loss decided
            judged += f", loss {start.loss:.4g} -> {best.loss:.4g}"
        if epoch == 0:
            reason = f"gained nothing: {judged}"
            reasons = self.float_reasons | dict.fromkeys(before, reason)
            return PassReport(self.settings.name, {}, reasons, (reason,), seconds)
        moved = self.network.write()
        after = self.layer_errors()
        changed = {
            name: Change(f"trained, epoch {epoch} of {self.settings.epochs}", before[name], after[name])
            for name in before
        }
        learned = "labels" if self.objective == "labels" else "the float network"
        covered = self._covered() if self.settings.learn_activations else {}
        note = f"learned from {learned} on {self.device.type}, {moved} codes changed, {judged} (epoch {epoch})"
        return PassReport(self.settings.name, changed, self.float_reasons, (note,), seconds, ranges=covered)

    def _covered(self) -> dict[str, CoveredRange]:
        """Coverage of the present grids on held-out samples."""
        coverage = Coverage(self.network.model.activation_qparams)
        for images in in_order(self.data, self.split.judge[:_COMPARED], _EVALUATED, self.device):
            for name, value in images.inputs.items():
                coverage(name, value)
            self.network.teacher(images.inputs, coverage)
        return coverage.ranges()

    def digest(self) -> str:
        """Digest of everything that determines the course of the training."""
        settings = dataclasses.asdict(self.settings)
        settings.pop("device")
        data = {name: fact for name, fact in self.data.describe().items() if name != "source"}
        facts = [settings, self.seed, data, self.network.facts(), _name_of(self.metric)]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for tensors in (self.network.program.constants, self.network.state_dict()):
            for name, value in sorted(tensors.items()):
                digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()


def _name_of(metric: Any) -> str:
    """Return a name of a metric that is the same in every process."""
    if metric is None or isinstance(metric, str):
        return metric or ""
    kind = metric if hasattr(metric, "__qualname__") else type(metric)
    return f"{kind.__module__}.{kind.__qualname__}"


def _arrays(outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value.detach().cpu().numpy() for name, value in outputs.items()}


def _on(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in inputs.items()}


class _Recorder:
    """Records the named tensors of a run."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.names:
            self.tensors[name] = value
        return value
