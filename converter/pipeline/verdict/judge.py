"""Build the verdict on a file from what a conversion measured."""

import math
from dataclasses import dataclass

from converter.display.numbers import faster, milliseconds, ratio, size, uncertain
from converter.evaluation.evaluate import Evaluation
from converter.pipeline.search_record import Search
from converter.pipeline.trial_run import Fidelity
from converter.pipeline.verdict.accuracy import accuracy
from converter.pipeline.verdict.answer import BAD, EQUAL, EXCELLENT, GOOD, LOOK, NO, UNKNOWN, YES, Answer, Verdict
from converter.recipes.recipe import Recipe
from converter.runtime.latency import BATCH, THREADS, Latencies
from converter.targets.target import Target
from passes.base import Stage

__all__ = ["Known", "judge"]

_WORTH_PACKING = 2**14  # codes of a network, below which 4 bits save little
_EQUAL = 1.02  # a ratio of sizes below it is no difference
_AIM_DB, _HIGHEST_DB = 20, 80  # SQNR that a poor file should have, and the highest that can be asked for


@dataclass(frozen=True)
class Known:
    """What is known of a conversion besides the measurements of its file.

    Attributes:
        codes: Codes of all quantized layers.
        measured_speed: Whether speed decided which activations stay in float.
        search: Record of the search that chose the recipe. None if there was no budget.
        given: Name of the model that was given, which size and speed are compared with.
        floats: What accuracy is compared with.
    """

    codes: int = 0
    measured_speed: bool = False
    search: Search | None = None
    given: str = "the model as given"
    floats: str = "the float model"


def judge(
    recipe: Recipe,
    target: Target,
    *,
    metrics: Evaluation | None,
    fidelity: Fidelity | None,
    latency: Latencies | None,
    before: int,
    after: int,
    known: Known,
) -> Verdict:
    """Judge a file.

    Args:
        recipe, target: How and for what the file was made.
        metrics: Measurements of the float model and of the file, if evaluation data were given.
        fidelity: Distance from float on a few samples.
        latency: Latencies of the given model and of the file, if they were timed.
        before, after: Bytes of both files.
        known: What else is known of the conversion.
    """
    answers = (
        accuracy(metrics, fidelity, known.search, known.floats),
        _smaller(before, after, known.given),
        _faster(latency, target, known.given),
    )
    worst = None if fidelity is None else fidelity.sqnr_db
    return Verdict(*answers, tuple(_advice(recipe, target, answers, known, worst, measured=metrics is not None)))


def _smaller(before: int, after: int, given: str) -> Answer:
    figures = f"{ratio(before / after, 'smaller', 'larger')} than {given}, {size(before)} to {size(after)}"
    if max(before / after, after / before) < _EQUAL:
        return Answer(EQUAL, f"{given} has {size(before)}, the file {size(after)}")
    if after < before:
        return Answer(YES, figures)
    return Answer(NO, f"{figures}; scales and nodes take more than the weights save")


def _faster(latency: Latencies | None, target: Target, given: str) -> Answer:
    if not target.cpu_kernels:
        return Answer(UNKNOWN, f"target {target.name} does not run on this processor's kernels; time it where it runs")
    if latency is None:
        return Answer(UNKNOWN, "it was not timed")
    first, last, quartiles = latency.ms[0], latency.ms[-1], latency.quartiles[-1]
    speedup = first / last
    figures = (
        f"{faster(speedup, quartiles)} than {given}, {milliseconds(first)} to "
        f"{milliseconds(last)} at batch {BATCH} on {THREADS} thread"
    )
    if uncertain(speedup, quartiles):
        return Answer(UNKNOWN, figures)
    low, high = quartiles
    return Answer(YES if low > 1 else NO if high < 1 else EQUAL, figures)


def _rounds_activations(recipe: Recipe) -> bool:
    return any(step.stage == Stage.RANGES and step.needs_data for step in recipe.passes)


def _advice(
    recipe: Recipe,
    target: Target,
    answers: tuple[Answer, Answer, Answer],
    known: Known,
    worst_db: float | None,
    *,
    measured: bool,
) -> list[str]:
    """Say what to try next, the most important first.

    Args:
        recipe, target, known: As in `judge`.
        answers: Whether the file is accurate enough, smaller and faster.
        worst_db: SQNR of the worst output.
        measured: Whether evaluation data were given.
    """
    accurate, smaller, faster = answers
    fixed = recipe.keeps or recipe.trains or known.search is not None
    found = []
    if accurate.word in {LOOK, UNKNOWN} and not measured and known.search is None:
        found.append("`evaluation=` with labels, or with `metric=`, measures what the task loses")
    if accurate.word in {LOOK, BAD} and not fixed:
        found.append(
            f"`min_sqnr={_aim(worst_db)}` leaves in float what costs most; `sensitivity` lists what each tensor costs"
        )
    if faster.word == NO and not fixed and not known.measured_speed and _rounds_activations(recipe):
        found.append("`measure_speed=True` leaves in float what this machine runs slower on integers")
    elif NO in {smaller.word, faster.word} and smaller.word != YES and not recipe.keeps:
        found.append(f"keep {known.given} unless an integer file is needed")
    if not found and not fixed and recipe.name in {"int8", "int8-gptq"} and accurate.word in {EXCELLENT, GOOD}:
        found += ["`recipe='int4'` makes a smaller file that runs as fast"] * _worth_packing(target, known)
    return found


def _worth_packing(target: Target, known: Known) -> bool:
    """Whether 4 bits make a clearly smaller file. Small layers, and some targets, have int8 codes all the same."""
    return target.rules.narrowest <= 4 and known.codes >= _WORTH_PACKING


def _aim(worst_db: float | None) -> int:
    """Return a SQNR to aim at: above that of the file."""
    if worst_db is None or not math.isfinite(worst_db) or worst_db < _AIM_DB:
        return _AIM_DB
    return min(_HIGHEST_DB, round(worst_db) + 6)
