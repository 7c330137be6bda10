"""Recipe `auto`: rungs from cheap to expensive, until a file keeps the budget. A layer above `converter.convert`.

    int8 -> int4 -> 3 bits -> mixed bits (several attempts) -> the best of them with learned rounding

Where `int8` loses too much, 8 bits by the passes of the later rungs come next: they may lose less, and only if they do
not are fewer bits hopeless. Mixed bits need them too, to tell the noise of weights from that of activations.

Where `int8` misses a latency, layers that run faster in float stay there (`float_layers`), in every rung that follows.

With a limit of bytes the ladder ends at the first file that keeps every limit, but goes on to mixed bits where accuracy
is left open: they are better at the same bytes. Where only a drop is allowed, it goes on as long as files get smaller.
"""

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from converter.budget.candidate_builder import CandidateBuilder, Trial, best
from converter.budget.float_layers import RUNG, faster_in_float
from converter.budget.held_out_judge import Judge, split, wanted
from converter.budget.limits import Budget
from converter.budget.mixed import BASE, mixed_attempts, with_bits
from converter.calibration.sequential import DEFAULT_BUDGET
from converter.data.preprocess import Preprocess, stored_preprocess
from converter.evaluation.evaluate import evaluate_pair
from converter.learn.data_needs import FEWEST_IMAGES, require_learnable
from converter.learn.learning import require_device
from converter.model_io.open import assumed_shape, open_model, suggesting_shape
from converter.pipeline.images import open_data, require_calibration
from converter.pipeline.result import Result
from converter.pipeline.search_record import Search
from converter.qdq.reader import read_qdq, requantized
from converter.recipes.builtin import AUTO, RECIPES, find_recipe, learning_on
from converter.recipes.overrides import with_overrides
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress, ignore_warning, no_progress
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.errors import BudgetError, UsageError
from passes.weights.learned_rounding import Device, LearnedRounding

__all__ = ["convert_within"]


def convert_within(
    model: Any,
    calibration: Any,
    budget: Budget,
    *,
    recipe: str | Path | Recipe = AUTO,
    target: str = DEFAULT_TARGET,
    evaluation: Any = None,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | None = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    limit: int | None = None,
    seed: int | None = None,
    device: Device | None = None,
    cache: str | Path | None = None,
    memory_budget: int = DEFAULT_BUDGET,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = ignore_warning,
) -> Result:
    """Quantize a model within a budget.

    Calibration data are split: ``limit`` images calibrate, others, 2,048 at most, judge every attempt.

    Args:
        budget: what the file may cost.
        recipe: "auto", or one that is judged alone.
        cache: folder that keeps what was measured; a run that was killed goes on from there.
        model, calibration, target, evaluation, weights, input_shape, preprocess: as `converter.convert` has them.
        limit, seed, device, memory_budget, progress, warn: the same; ``device`` is where `auto` learns, if it does.

    Returns:
        The conversion, with `Result.search`.

    Raises:
        BudgetError: no attempt keeps the budget; its `search` says what was tried.
        ConvertError: anything else a user can mend.
    """
    started = time.perf_counter()
    chosen = find_target(target)
    base = BASE if recipe == AUTO else learning_on(find_recipe(recipe), device)
    if base.keeps:
        raise UsageError(f"recipe {base.name!r} has one result, so a budget has no use; leave it out")
    named = dataclasses.replace(base, name=AUTO) if recipe == AUTO else base  # as it was asked for
    require_calibration(calibration, None, None, named)
    require_device([*base.passes, *([] if device is None else [LearnedRounding(device=device)])])
    if calibration is None:
        raise UsageError("a budget is judged on images; use --calibration with images or an .npz")
    if budget.max_latency is not None and chosen.provider != "cpu":
        raise UsageError(f"--max-latency is measured on this machine's CPU, not on target {target!r}; leave it out")
    source, found = read_qdq(open_model(model, weights=weights, input_shape=input_shape))
    if found:
        warn(requantized(found))
    base = with_overrides(base, stored_preprocess(source), preprocess, limit, seed)
    reading = dataclasses.replace(base, limit=wanted(base.limit))
    with suggesting_shape(assumed_shape([model], input_shape)):
        images = open_data(calibration, evaluation, None, source, reading, preprocess, warn, labels_judge=True)
    data, unseen = images.calibration, images.evaluation
    assert data is not None
    fit, held_out = split(data, base.limit, base.seed)
    require_learnable(base.passes, lambda _: fit)
    judge = Judge(source, held_out, classes=budget.max_drop is not None)
    if budget.max_drop is not None and 100 / len(held_out) > budget.max_drop:
        warn(
            f"{len(held_out)} images judge, and one of them is {100 / len(held_out):.2g} points, more than --max-drop "
            f"{budget.max_drop:g}: the drop is mostly an estimate; give more images"
        )
    cached = None if cache is None else Path(cache)
    builder = CandidateBuilder(source, fit, judge, budget, chosen, device, cached, memory_budget, progress)
    for trial in _rungs(builder, base) if recipe == AUTO else [builder.attempt(base.name, base)]:
        progress(f"auto: {trial.attempt.name}", 1, 1)

    result = builder.kept()
    attempts, winner = tuple(trial.attempt for trial in builder.trials), best(builder.trials, budget)
    search = Search(
        str(budget),
        dataclasses.asdict(budget),
        judge.drop_of,
        len(held_out),
        attempts,
        None if winner is None else attempts.index(winner.attempt),
        () if builder.effects is None else builder.effects.layers(),
    )
    if result is None:
        raise BudgetError(_why_not(builder, judge), search)
    kept = None if winner is None else winner.attempt.counted_drop
    if budget.max_drop is not None and kept is not None and kept > budget.max_drop:
        warn(
            f"{len(held_out)} images judged, which is few: they lost {kept:.2f} points by count; of others fewer are "
            "expected; give more images, or look at the drop with --evaluate"
        )
    metrics = None if unseen is None else evaluate_pair(source, result.model, unseen, result.recipe.name, progress)
    seconds = time.perf_counter() - started
    return dataclasses.replace(result, metrics=metrics, search=search, seconds=seconds)


def _rungs(builder: CandidateBuilder, base: Recipe) -> Iterator[Trial]:
    """BudgetAttempt after attempt, until the budget holds or nothing is left that could make it."""
    budget = builder.budget
    eight = builder.attempt("int8", _like(RECIPES["int8"], base))
    yield eight
    eight, base = faster_in_float(builder, eight, base)
    if _settled(eight, budget):
        return
    exact = None
    if budget.broken(eight.attempt.drop, 0, None):
        exact = builder.attempt("int8-gptq", with_bits(base, 8))
        yield exact
        if _settled(exact, budget):
            return
    if _hopeless(exact or eight, budget):
        return
    four = builder.attempt("int4", base)
    yield four
    if _settled(four, budget) and budget.max_drop is not None:
        return
    starts = [four]
    if not budget.broken(four.attempt.drop, 0, None) and (
        budget.wants_smallest or budget.broken(None, four.attempt.bytes, None)
    ):
        starts.append(builder.attempt("int3", with_bits(base, 3)))
        yield starts[-1]
        if _settled(starts[-1], budget) and budget.max_drop is not None:
            return
    if exact is None:
        exact = builder.attempt("int8-gptq", with_bits(base, 8))
        yield exact
    tried = []
    for mixed in mixed_attempts(builder, base, exact, starts):
        tried.append(mixed)
        yield mixed
        if _settled(mixed, budget) and budget.max_drop is not None:
            return
    can_learn = importlib.util.find_spec("torch") is not None and len(builder.fit) >= FEWEST_IMAGES
    if best(builder.trials, budget) is None and tried and can_learn:
        yield builder.attempt("mixed-learned", _learned(_nearest([*starts[1:], *tried], budget).recipe))


def _settled(trial: Trial, budget: Budget) -> bool:
    """Whether the budget holds and asks for nothing more."""
    return trial.attempt.holds and not budget.wants_smallest


def _hopeless(eight: Trial, budget: Budget) -> bool:
    """Whether 8-bit weights already break a limit that fewer bits cannot keep: of drop or of latency."""
    return bool(budget.broken(eight.attempt.drop, 0, eight.attempt.latency_ms))


def _like(recipe: Recipe, base: Recipe) -> Recipe:
    """A built-in recipe on the images of the search."""
    return dataclasses.replace(recipe, limit=base.limit, seed=base.seed, preprocess=base.preprocess)


def _learned(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, name="mixed-learned", passes=(*recipe.passes, LearnedRounding()))


def _nearest(trials: Sequence[Trial], budget: Budget) -> Trial:
    """The attempt nearest to the budget: within the bytes the fastest up to the limit, then the most accurate.

    The smallest where none is within the bytes.
    """
    most = math.inf if budget.max_latency is None else budget.max_latency
    within = [trial for trial in trials if not budget.broken(None, trial.attempt.bytes, None)]
    if within:
        return min(within, key=lambda trial: (max(trial.attempt.latency_ms or 0.0, most), trial.verdict.power))
    return min(trials, key=lambda trial: trial.attempt.bytes)


def _why_not(builder: CandidateBuilder, judge: Judge) -> str:
    """What was missed by how much, and what would do."""
    nearest, budget = _nearest(builder.trials, builder.budget).attempt, builder.budget
    only = builder.trials[-1].attempt.name in {"int8", RUNG, "int8-gptq"} and not nearest.broken.endswith("bytes")
    reason = "; fewer bits cost more and run no faster, so nothing else was tried" if only else ""
    hints = []
    if budget.broken(nearest.drop, 0, None):
        hints.append(f"--max-drop {math.ceil(100 * (nearest.drop or 0.0)) / 100:g}")
    if budget.broken(None, nearest.bytes, None):
        hints.append(f"--max-bytes {nearest.bytes}")
    if budget.broken(None, 0, nearest.latency_ms):
        hints.append(f"--max-latency {math.ceil(100 * (nearest.latency_ms or 0.0)) / 100:g}")
    if builder.fewest_bytes is not None:
        reason += f"; bits chosen layer by layer would take {builder.fewest_bytes:,.0f} bytes or so at the fewest"
    of = f" of {judge.drop_of}" if budget.max_drop is not None else ""
    return (
        f"no file keeps {budget}{of}, and none was written; nearest of {len(builder.trials)} is {nearest.name}, which "
        f"{nearest.broken}{reason}; {' '.join(hints)} would take it"
    )
