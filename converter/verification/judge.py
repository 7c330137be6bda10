"""Whether a runtime computes what a file says: its outputs beside the CPU's, and beside the float model's.

Two implementations of one quantized model round differently, so their outputs differ by about the quantization noise. A
runtime is right if its outputs are as near to the float model as the CPU's, each output and each part of it. Without
the float model, it is right if it picks the same classes and is not far from the CPU.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from converter.data.dataset import Batch
from converter.verification.runs import Outputs, class_agreement, loss_error_db, output_db, worst_db

__all__ = ["MIN_AGREEMENT", "Judgement", "judge"]

MIN_AGREEMENT = 0.99
_WORSE_DB = 1.0  # allowed loss against float, compared with the CPU, besides the scatter over the samples
_PART_WORSE_DB = 3.0  # the same for one output of several, or a part: fewer numbers, so more scatter
_SAME_DB = 30.0  # against the CPU: 3 % apart, the cost of rounding in other places (a PRelu slope to 8 bits: 2 dB)
_FLOOR_DB = 10.0  # against the CPU, on noise, without the float model: wrong kernels are below 0 dB
_WRONG_DB = 0.0  # the same for lists of varying length: two entries in another order are as far apart as errors are


@dataclass(frozen=True)
class Judgement:
    """How near the outputs of a runtime are. The fields have the meaning of those of `Verification`."""

    agreement: float | None
    sqnr_db: float
    float_db: float | None
    cpu_float_db: float | None
    outputs: dict[str, float]
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()


def judge(
    runs: Sequence[Batch],
    actual: Sequence[Outputs],
    cpu: Sequence[Outputs],
    floats: Sequence[Outputs] | None,
    *,
    joined: Collection[str],
    min_agreement: float | None,
    has_classes: bool,
) -> Judgement:
    """Judge the outputs of a runtime.

    Args:
        runs: Inputs of each run.
        actual: Outputs of the runtime in each run.
        cpu: Those of the CPU.
        floats: Those of the float model, or None.
        joined: Outputs that may have parts of different kinds. See `converter.runtime.output_parts`.
        min_agreement: Least agreement with the CPU. See `converter.verify`.
        has_classes: Whether the inputs are data. The classes of noise say nothing.
    """
    agreement, sqnr = class_agreement(runs, actual, cpu), worst_db(cpu, actual)
    least = MIN_AGREEMENT if min_agreement is None else min_agreement
    unlike = has_classes and agreement is not None and agreement < least
    float_db, cpu_float_db, outputs, notes = None, None, output_db(cpu, actual, joined), list[str]()
    if floats is None:
        advice = f"below {_FLOOR_DB:g} dB; give `reference=` to judge by float"
        far = [f"{sqnr:.1f} dB against the CPU, {advice}"] if sqnr < _FLOOR_DB else []
    else:
        if unlike and min_agreement is None:
            unlike = not _as_often(class_agreement(runs, floats, actual), class_agreement(runs, floats, cpu), runs)
        far, notes = _without_float(actual, cpu, floats)
        alike = [_alike(*run) for run in zip(actual, cpu, floats, strict=True)]
        actual, cpu, floats = ([run[place] for run in alike] for place in range(3))
        if outputs := output_db(floats, actual, joined):
            far += _farther(actual, cpu, floats, joined)
            float_db, cpu_float_db = worst_db(floats, actual), worst_db(floats, cpu)
    classes = []
    if unlike and agreement is not None:
        classes = [f"agreement with the CPU is {100 * agreement:.1f} %, below {100 * least:g} %"]
    return Judgement(agreement, sqnr, float_db, cpu_float_db, outputs, (*classes, *far), tuple(notes))


def _alike(actual: Outputs, cpu: Outputs, floats: Outputs) -> tuple[Outputs, Outputs, Outputs]:
    """Leave out the outputs of a run that have not the same shape in all three."""
    names = [name for name in cpu if actual[name].shape == cpu[name].shape == floats[name].shape]
    one, two, three = ({name: outputs[name] for name in names} for outputs in (actual, cpu, floats))
    return one, two, three


def _without_float(
    actual: Sequence[Outputs], cpu: Sequence[Outputs], floats: Sequence[Outputs]
) -> tuple[list[str], list[str]]:
    """Judge the outputs that have another size than the float model's in every run, such as lists of detections.

    Returns:
        Failures and notes.
    """
    runs = [_alike(*run)[0] for run in zip(actual, cpu, floats, strict=True)]
    failures, notes = list[str](), list[str]()
    for name, db in output_db(cpu, actual, ()).items():
        if any(name in run for run in runs):
            continue
        what = f"output {name} has another size than the float model's in every run; against the CPU: {db:.1f} dB"
        (failures if db < _WRONG_DB else notes).append(what)
    return failures, notes


def _farther(
    actual: Sequence[Outputs], cpu: Sequence[Outputs], floats: Sequence[Outputs], joined: Collection[str]
) -> list[str]:
    """Say which outputs are farther from the float model's than the CPU's are: the worst one, or any by much."""
    whole = output_db(floats, actual, ())
    if whole and min(output_db(cpu, actual, ()).values(), default=math.inf) < _SAME_DB:
        worst, usual = min(whole.values()), worst_db(floats, cpu)
        name = min(whole, key=lambda each: whole[each])
        if worst < usual - _WORSE_DB - 2 * loss_error_db(name, floats, actual, cpu):
            return [_loss("", worst, usual)]
    parts, usual_parts, apart = (output_db(*pair, joined) for pair in ((floats, actual), (floats, cpu), (cpu, actual)))
    return [
        _loss(f"{name}: ", db, usual_parts[name])
        for name, db in parts.items()
        if db < usual_parts[name] - _PART_WORSE_DB and apart.get(name, -math.inf) < _SAME_DB
    ]


def _loss(what: str, db: float, usual: float) -> str:
    return f"{what}{db:.1f} dB against float, where the CPU has {usual:.1f} dB"


def _as_often(actual: float | None, cpu: float | None, runs: Sequence[Batch]) -> bool:
    """Whether a runtime agrees with the float model as often as the CPU, within two standard errors and 1 point."""
    if actual is None or cpu is None:
        return False
    error = math.sqrt(2 * max(cpu * (1 - cpu), 0.0) / sum(run.count for run in runs))
    return actual >= cpu - (1 - MIN_AGREEMENT) - 2 * error
