"""Trial of two rules for activation ranges on the whole network, with 8-bit weights rounded to the nearest.

The range of least squared error clips the largest values of a tensor. What that costs depends on the layers behind it:
rounding errors average out in their sums, clipped values all err in one direction. In most networks the rule wins, by
up to 6 dB. In some it loses several dB to ranges that clip nothing, and no measure of the tensor alone says in which.
So the network itself is asked: it runs on a few samples with both.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from converter.calibration.sequential import solve_layers
from converter.data.dataset import Dataset
from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from converter.runtime.runner import Runner
from converter.runtime.session import no_progress
from passes.activations.activation_ranges import ActivationRanges
from passes.errors import ModelError
from passes.ir.model import Model
from passes.numerics.error import decibel
from passes.statistics import Stats
from passes.weights.rtn import Rtn

__all__ = ["choose_ranges", "trial_samples"]

_SAMPLES = 32  # samples that judge, at most
_WORTH_DB = 0.3  # a smaller difference is chance


def trial_samples(step: ActivationRanges, data: Dataset, seed: int) -> tuple[Dataset, Dataset] | None:
    """Split samples into those that give the ranges of a trial, and at most 32 others that judge them.

    Args:
        step: The pass. Only the method "mse" with 8 bits is put to the test.
        data: Calibration data.
        seed: Random seed of the choice of samples.

    Returns:
        Both parts, or None if there is no trial.
    """
    if step.method != "mse" or step.bits == 16 or len(data) < 2:
        return None
    return data.split(max(len(data) // 2, len(data) - _SAMPLES), seed)


def choose_ranges(
    step: ActivationRanges,
    model: Model,
    stats: Stats,
    judge: Dataset,
) -> tuple[ActivationRanges, tuple[str, ...]]:
    """Choose between ranges of least squared error and ranges that clip nothing.

    Args:
        step: The pass.
        model: The model before the pass. It does not change.
        stats: Statistics of samples that give both ranges.
        judge: Other samples, which judge them. See `trial_samples`.

    Returns:
        The pass to apply, and a note if it is not the given one.
    """
    whole = dataclasses.replace(step, method="minmax")
    models = [_applied(each, model, stats) for each in (step, whole)]
    if models[0].activation_qparams == models[1].activation_qparams:
        return step, ()
    try:
        errors = _errors(model, models, judge)
    except ModelError:  # onnxruntime's CPU kernels do not run what the target needs
        return step, ()
    if not all(math.isfinite(error) for error in errors):
        return step, ()
    ours, theirs = (decibel(1.0, error) for error in errors)
    if theirs <= ours + _WORTH_DB:
        return step, ()
    count = min(len(judge), _SAMPLES)
    note = f"ranges of all values, {theirs:.1f} dB on {count} samples, against {ours:.1f} dB of clipped ones"
    return whole, (note,)


def _applied(step: ActivationRanges, model: Model, stats: Stats) -> Model:
    copy = dataclasses.replace(
        model,
        graph=model.graph.copy(),
        quantized={},
        recurrent={},
        activation_qparams={},
        float_reasons=dict(model.float_reasons),
        float_activations=dict(model.float_activations),
        float_weights={},
    )
    step.apply(copy, stats)
    return copy


def _errors(exact: Model, models: Sequence[Model], judge: Dataset) -> list[float]:
    """Error power of the float outputs relative to their own power, on average over the outputs, for each model.

    One sample runs at a time, through all networks. No output is kept.

    Args:
        exact: The float model.
        models: The models with ranges. They get 8-bit codes.
        judge: Samples to run.
    """
    reference = Runner(float_model(exact.graph), "the float model", keep=False)  # first: no codes take memory yet
    names, runners = reference.outputs, []
    for model in models:
        solve_layers(model, Rtn(bits=8, scale="absmax"), None, no_progress)
        runners.append(Runner(emit(model, "int8"), "the model with ranges", outputs=names, keep=False))
        model.quantized.clear()
    noise, signal = np.zeros((len(models), len(names))), np.zeros(len(names))
    for batch, _ in zip(judge.batches(1), range(_SAMPLES), strict=False):
        expected = reference.execute(batch.feeds)
        found = [runner.execute(batch.feeds) for runner in runners]
        for place, wanted in enumerate(expected):
            if getattr(wanted, "dtype", np.dtype(object)).kind != "f":
                continue
            signal[place] += np.square(wanted, dtype=np.float64).sum()
            for row, outputs in zip(noise, found, strict=True):
                if outputs[place].shape == wanted.shape:
                    row[place] += np.square(outputs[place].astype(np.float64) - wanted).sum()
    counted = signal > 0
    return [float((row[counted] / signal[counted]).mean()) if counted.any() else math.nan for row in noise]
