"""Build the verdict on a file from what a conversion measured."""

from converter.display.numbers import milliseconds, ratio, size, uncertain
from converter.evaluation.evaluate import Evaluation
from converter.pipeline.trial_run import Fidelity
from converter.pipeline.verdict.accuracy import accuracy
from converter.pipeline.verdict.answer import BAD, EQUAL, EXCELLENT, GOOD, LOOK, NO, UNKNOWN, YES, Answer, Verdict
from converter.recipes.recipe import Recipe
from converter.runtime.latency import BATCH, THREADS, Latencies
from converter.targets.target import Target
from passes.base import Stage

__all__ = ["judge"]

_EQUAL = 1.02  # a ratio of sizes below it is no difference
_AIM_DB, _HIGHEST_DB = 20, 80  # SQNR that a poor file should have, and the highest that can be asked for


def judge(
    recipe: Recipe,
    target: Target,
    *,
    metrics: Evaluation | None,
    fidelity: Fidelity | None,
    latency: Latencies | None,
    before: int,
    after: int,
) -> Verdict:
    """Judge a file.

    Args:
        recipe, target: How and for what the file was made.
        metrics: Measurements of the float model and of the file, if evaluation data were given.
        fidelity: Distance from float on a few samples.
        latency: Latencies of the float model and of the file, if they were timed.
        before, after: Bytes of both files.
    """
    accurate = accuracy(metrics, fidelity)
    smaller, faster = _smaller(before, after), _faster(latency, target)
    worst = None if fidelity is None else fidelity.sqnr_db
    return Verdict(accurate, smaller, faster, tuple(_advice(recipe, accurate, smaller, faster, metrics, worst)))


def _smaller(before: int, after: int) -> Answer:
    figures = f"{ratio(before / after, 'smaller', 'larger')} than float, {size(before)} to {size(after)}"
    if max(before / after, after / before) < _EQUAL:
        return Answer(EQUAL, f"{size(before)} and {size(after)}")
    if after < before:
        return Answer(YES, figures)
    return Answer(NO, f"{figures}; scales and nodes take more than the weights save")


def _faster(latency: Latencies | None, target: Target) -> Answer:
    if not target.cpu_kernels:
        return Answer(UNKNOWN, f"target {target.name} does not run on this processor's kernels; time it where it runs")
    if latency is None:
        return Answer(UNKNOWN, "it was not timed")
    first, last, quartiles = latency.ms[0], latency.ms[-1], latency.quartiles[-1]
    speedup = first / last
    figures = (
        f"{ratio(speedup, 'faster', 'slower', quartiles)} than float, {milliseconds(first)} to {milliseconds(last)} "
        f"at batch {BATCH} on {THREADS} thread"
    )
    if uncertain(quartiles):
        return Answer(UNKNOWN, figures)
    low, high = quartiles
    return Answer(YES if low > 1 else NO if high < 1 else EQUAL, figures)


def _rounds_activations(recipe: Recipe) -> bool:
    return any(step.stage == Stage.RANGES and step.needs_data for step in recipe.passes)


def _advice(
    recipe: Recipe,
    accurate: Answer,
    smaller: Answer,
    faster: Answer,
    metrics: Evaluation | None,
    worst_db: float | None,
) -> list[str]:
    """Say what to try next, the most important first. ``worst_db`` is the SQNR of the worst output."""
    fixed = recipe.keeps or recipe.trains
    found = []
    if accurate.word in {LOOK, UNKNOWN} and metrics is None:
        found.append("`evaluation=` with labels, or with `metric=`, measures what the task loses")
    if accurate.word in {LOOK, BAD} and not fixed:
        aim = _AIM_DB if worst_db is None or not worst_db >= _AIM_DB else min(_HIGHEST_DB, round(worst_db) + 6)
        found.append(f"`min_sqnr={aim}` leaves in float what costs most; `sensitivity` lists what each tensor costs")
    if faster.word == NO and not fixed and _rounds_activations(recipe):
        found.append("`measure_speed=True` leaves in float what this machine runs slower on integers")
    elif faster.word == NO and smaller.word != YES and not recipe.keeps:
        found.append("the float model is the better file on this machine")
    if smaller.word == NO and not recipe.keeps:
        found.append("keep the float model unless an integer file is needed")
    if not found and recipe.name in {"int8", "int8-gptq"} and accurate.word in {EXCELLENT, GOOD}:
        found.append("`recipe='int4'` makes a smaller file that runs as fast")
    return found
