"""Recipe `auto`: attempts ("rungs") from cheap to expensive, until a file is within the budget.

    int8 -> int4 -> 3 bits -> mixed bits (several attempts) -> the best of them with learned rounding

It is built on `converter.convert`.

- If `int8` drops too much, 8 bits with the passes of the later rungs come next. They may drop less. If they also drop
  too much, what costs most at 8 bits stays in float (`float_sources`), in every later rung too. Without such a file,
  fewer bits are not tried. Mixed bits need the second attempt too, to separate the noise of the weights from that of
  the activations.
- If `int8` exceeds a latency, layers that run faster in float stay in float (`float_layers`) in every later rung.
- With a limit of bytes, the ladder ends at the first file within all limits. If accuracy is not limited, it continues
  to mixed bits, which are more accurate at the same bytes.
- If only a drop is limited, it continues as long as files become smaller.
"""

import contextlib
import dataclasses
import importlib.util
import logging
import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from converter.budget.ahead import measure_ahead
from converter.budget.candidate_builder import CandidateBuilder, Trial, best
from converter.budget.channels import Channels
from converter.budget.float_layers import RUNG, faster_in_float
from converter.budget.float_sources import RUNG as EXACT_RUNG
from converter.budget.float_sources import with_float_sources
from converter.budget.held_out_judge import JUDGING, Judge
from converter.budget.limits import Budget
from converter.budget.mixed import BASE, mixed_attempts
from converter.data.preprocess import Preprocess
from converter.engine.workers import Workers, opened
from converter.learn.learning import require_device
from converter.model_io.open import ExportOptions
from converter.model_io.scratch import scratch_folder
from converter.pipeline.fixed_sums import fixed_sums
from converter.pipeline.images import require_calibration
from converter.pipeline.prepare import Prepared, prepare
from converter.pipeline.result import Result
from converter.pipeline.search_record import Search
from converter.pipeline.settings import Settings
from converter.recipes.builtin import AUTO, RECIPES, find_recipe, learning_on
from converter.recipes.overrides import with_bits, with_recurrent_bits
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress, no_progress
from converter.targets.catalog import DEFAULT_TARGET, find_target
from converter.targets.target import Target
from passes.arguments import require_type
from passes.base import FEWEST_HELD_OUT
from passes.errors import BudgetError, QuantizationError, UsageError
from passes.weights.learned_rounding import LearnedRounding

__all__ = ["convert_within"]

_LOG = logging.getLogger(__name__)

_RECURRENT_BITS = 8  # bits of LSTM, GRU and RNN in every attempt: what fewer of them cost is not measured


def convert_within(
    model: Any,
    calibration: Any,
    budget: Budget,
    *,
    recipe: str | Path | Recipe = AUTO,
    target: str = DEFAULT_TARGET,
    evaluation: Any = None,
    cache: str | Path | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    workers: Workers = Workers(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Result:
    """Quantize a model within a budget.

    Calibration data are split: `Settings.limit` images calibrate, and at most 2,048 others judge every attempt.

    Args:
        budget: Limits of the file.
        recipe: "auto", or the only recipe to try.
        cache: Folder for measurements. An interrupted run is resumed from it.
        model, calibration, target, evaluation, export, preprocess, progress: As in `converter.convert`.
        settings: As in `converter.convert`. Its device is that of learned rounding, if `auto` uses it.
        workers: Processes that measure the first attempts, and what each layer costs, before the search. By default, it
            measures them when it needs them.

    Returns:
        The conversion, with `Result.search`.

    Raises:
        BudgetError: No attempt is within the budget. Its `search` holds all attempts.
        ConvertError: Any other error that a user can correct.
    """
    require_type("settings", settings, Settings, "converter.Settings(...)")
    require_type("budget", budget, Budget, "converter.Budget(...)")
    chosen = find_target(target)
    base = BASE if recipe == AUTO else learning_on(find_recipe(recipe), settings.device)
    _require_searchable(AUTO if recipe == AUTO else base.name, base, calibration, budget, chosen, settings)
    if workers.several and (recipe != AUTO or settings.prune_channels is not None):
        raise UsageError("`workers=` has no effect without recipe 'auto' and with channels to prune; leave it out")
    with fixed_sums(settings.deterministic, learns=recipe == AUTO or base.learns):
        job = prepare(
            model,
            calibration,
            base,
            chosen,
            evaluation=evaluation,
            export=export,
            preprocess=preprocess,
            settings=settings,
            judging=JUDGING,
            progress=progress,
        ).warn()
        with contextlib.ExitStack() as held:
            place = None if cache is None else Path(cache)
            if workers.several and place is None:
                place = held.enter_context(scratch_folder())
            found = _search(job, budget, recipe == AUTO, place, workers, progress)
            return found.deployed(settings)


def _search(
    job: Prepared, budget: Budget, is_auto: bool, cache: Path | None, workers: Workers, progress: Progress
) -> Result:
    """Convert until the budget is met. Try one recipe only, or several."""
    settings = job.settings
    fit, held_out = job.images.calibration, job.images.judging
    base = with_recurrent_bits(job.recipe, job.source, _RECURRENT_BITS) if is_auto else job.recipe
    assert fit is not None
    if held_out is None:
        raise UsageError(
            f"{fit.source}: a search judges files on samples that do not calibrate; give 2 samples or more"
        )
    judge = Judge(job.reference, held_out, classes=budget.max_drop is not None, metric=settings.metric)
    if budget.max_drop is not None and judge.metric is None and 100 / len(held_out) > budget.max_drop:
        _LOG.warning(
            f"only {len(held_out)} samples judge the files, so one sample is {100 / len(held_out):.2g} points, more "
            f"than `max_drop={budget.max_drop:g}`: the drop is mostly an estimate; give more samples"
        )
    builder = CandidateBuilder(job.source, fit, judge, budget, job.target, settings, cache, progress)
    if workers.several:
        with opened(workers) as engine:
            measure_ahead(builder, _first_recipes(base, budget), base, engine, progress)
    if settings.prune_channels is not None:
        rungs = _rungs_with_channels(builder, base, is_auto=is_auto)
    else:
        rungs = _rungs(builder, base) if is_auto else iter([builder.attempt(base.name, base)])
    for trial in rungs:
        progress(f"auto: {trial.attempt.name}", 1, 1)

    result = builder.kept()
    attempts, winner = tuple(trial.attempt for trial in builder.trials), best(builder.trials, budget)
    search = Search(
        budget=str(budget),
        limits=dataclasses.asdict(budget),
        drop_of=judge.drop_of,
        held_out=len(held_out),
        attempts=attempts,
        kept=None if winner is None else attempts.index(winner.attempt),
        effects=() if builder.effects is None else builder.effects.layers(),
    )
    if result is None:
        raise BudgetError(_why_not(builder, judge), search)
    if result.fidelity is not None and result.fidelity.warning:
        _LOG.warning(f"{result.fidelity.warning}; `sensitivity` lists what each tensor costs")
    counted = None if winner is None else winner.attempt.counted_drop
    if budget.max_drop is not None and counted is not None and counted > budget.max_drop:
        _LOG.warning(
            f"only {len(held_out)} samples judged the file: it lost {counted:.2f} points on them, and less is expected "
            "on other samples; give more samples, or measure the drop with `evaluation=`"
        )
    metrics = job.evaluation(result.model, result.recipe.name, progress)
    latency = None if metrics is not None and metrics.latencies is not None else job.latency(result.model)
    seconds = job.footprint.seconds
    return dataclasses.replace(
        result, given=job.given, metrics=metrics, latency=latency, search=search, seconds=seconds
    )


def _first_recipes(base: Recipe, budget: Budget) -> list[Recipe]:
    """Return the recipes of attempts that follow from no other one. The search may not need all of them."""
    fewer = [with_bits(base, 3)] if budget.wants_smallest or budget.max_bytes is not None else []
    return [_like(RECIPES["int8"], base), with_bits(base, 8), base, *fewer]


def _require_searchable(
    name: str, recipe: Recipe, calibration: Any, budget: Budget, target: Target, settings: Settings
) -> None:
    """Check that a search has something to choose from and images to judge on.

    Raises:
        UsageError: An argument has no use or is missing. The message names it.
        QuantizationError: The device does not exist.
    """
    if recipe.keeps or recipe.narrows_floats:
        raise UsageError(f"recipe {name!r} has only one result, so a budget has no effect; leave it out")
    require_calibration(calibration, None, settings.checkpoint, dataclasses.replace(recipe, name=name))
    if calibration is None:
        raise UsageError("a budget is judged on samples; use `calibration=` with an .npz or a folder of images")
    if settings.min_sqnr is not None:
        raise UsageError(
            f"`min_sqnr={settings.min_sqnr:g}` has no effect with a budget, whose limits decide; leave one of them out"
        )
    if settings.prune_channels not in (None, "auto"):
        raise UsageError(
            f"`prune_channels={settings.prune_channels}` has no effect with a budget, which chooses the share; use "
            "`prune_channels='auto'`"
        )
    if settings.measure_speed:
        raise UsageError(
            "`measure_speed=True` has no effect with a budget: a search times layers in float by itself, if int8 "
            "misses `max_latency=`; leave it out"
        )
    if budget.max_latency is not None and target.provider != "cpu":
        raise UsageError(
            f"`max_latency=` is measured on this machine's CPU, not on target {target.name!r}; leave it out"
        )
    if settings.device is not None:
        require_device([LearnedRounding(device=settings.device)])


def _rungs(builder: CandidateBuilder, base: Recipe, eight: Trial | None = None) -> Iterator[Trial]:
    """Yield attempt after attempt, until the budget is met or nothing is left to try.

    Args:
        builder: Makes and judges the attempts.
        base: Recipe of the rungs with fewer than 8 bits.
        eight: The attempt `int8`, if it was made already.
    """
    budget = builder.budget
    found = yield from _eight_bits(builder, base, eight)
    if found is None:
        return
    eight_gptq, base = found
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
    if eight_gptq is None:
        eight_gptq = builder.attempt("int8-gptq", with_bits(base, 8))
        yield eight_gptq
    tried = []
    for mixed in mixed_attempts(builder, base, eight_gptq, starts):
        tried.append(mixed)
        yield mixed
        if _settled(mixed, budget) and budget.max_drop is not None:
            return
    can_learn = importlib.util.find_spec("torch") is not None and len(builder.fit) >= FEWEST_HELD_OUT
    if best(builder.trials, budget) is None and tried and can_learn:
        yield builder.attempt("mixed-learned", _learned(_nearest([*starts[1:], *tried], budget).recipe))


def _rungs_with_channels(builder: CandidateBuilder, base: Recipe, *, is_auto: bool) -> Iterator[Trial]:
    """Yield attempts without some of the channels, at 8 bits and then at fewer, and then those with all channels.

    If only one recipe is wanted, all attempts are of this recipe.
    """
    budget, recipe = builder.budget, _like(RECIPES["int8"], base) if is_auto else base
    whole = builder.attempt(recipe.name, recipe)
    yield whole
    if _settled(whole, budget):
        return
    channels = None
    if not (budget.wants_smallest and not whole.attempt.holds):  # else fewer channels would lose more still
        try:
            channels = Channels(builder, recipe)
            yield from channels.attempts()
        except QuantizationError as error:
            _LOG.warning(f"the search goes on with all channels: {error}")
    share = 0.0 if channels is None else channels.for_fewer_bits()
    if not is_auto or (share and not budget.wants_smallest):
        return
    if share and channels is not None:
        fewer = channels.with_share(base, share)
        four = builder.attempt("int4 without channels", fewer)
        yield four
        if not four.attempt.holds:
            eight = builder.attempt("int8-gptq without channels", with_bits(fewer, 8))
            yield eight
            yield from mixed_attempts(builder, fewer, eight, [four])
        return
    yield from _rungs(builder, base, whole)


def _eight_bits(
    builder: CandidateBuilder, base: Recipe, eight: Trial | None
) -> Generator[Trial, None, tuple[Trial | None, Recipe] | None]:
    """Yield the attempts with 8 bits.

    Returns:
        The last attempt by GPTQ, if there was one, and the recipe of the rungs with fewer bits. None: the search ends.
    """
    budget = builder.budget
    if eight is None:
        eight = builder.attempt("int8", _like(RECIPES["int8"], base))
        yield eight
    eight, base = faster_in_float(builder, eight, base)
    if _settled(eight, budget):
        return None
    if not budget.broken(eight.attempt.drop, 0, None):
        return None if _hopeless(eight, budget) else (None, base)
    gptq = builder.attempt("int8-gptq", with_bits(base, 8))
    yield gptq
    if budget.broken(gptq.attempt.drop, 0, None):
        found = yield from with_float_sources(builder, gptq, base)
        if found is None:
            return None
        gptq, base = found
    return None if _settled(gptq, budget) or _hopeless(gptq, budget) else (gptq, base)


def _settled(trial: Trial, budget: Budget) -> bool:
    """Whether the attempt is within the budget and no smaller file is wanted."""
    return trial.attempt.holds and not budget.wants_smallest


def _hopeless(eight: Trial, budget: Budget) -> bool:
    """Whether 8-bit weights exceed a limit of drop or latency. Fewer bits cannot meet it then."""
    return bool(budget.broken(eight.attempt.drop, 0, eight.attempt.latency_ms))


def _like(recipe: Recipe, base: Recipe) -> Recipe:
    """Return a built-in recipe with the limit, seed, preprocessing and bits of recurrent layers of the search."""
    solver = base.solver
    assert solver is not None  # layers are solved by a layer pass
    recipe = recipe.with_solver(recurrent_bits=solver.recurrent_bits)
    return dataclasses.replace(recipe, limit=base.limit, seed=base.seed, preprocess=base.preprocess)


def _learned(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, name="mixed-learned", passes=(*recipe.passes, LearnedRounding()))


def _nearest(trials: Sequence[Trial], budget: Budget) -> Trial:
    """Return the attempt nearest to the budget.

    Among attempts within the limit of bytes, it is the fastest, down to the limit of latency, and then the most
    accurate. If there is none, it is the smallest attempt.
    """
    most = math.inf if budget.max_latency is None else budget.max_latency
    within = [trial for trial in trials if not budget.broken(None, trial.attempt.bytes, None)]
    if within:
        return min(within, key=lambda trial: (max(trial.attempt.latency_ms or 0.0, most), trial.verdict.power))
    return min(trials, key=lambda trial: trial.attempt.bytes)


def _why_not(builder: CandidateBuilder, judge: Judge) -> str:
    """Describe the limits that were missed, by how much, and the limits that could be met."""
    nearest, budget = _nearest(builder.trials, builder.budget).attempt, builder.budget
    only = builder.trials[-1].attempt.name in {"int8", RUNG, "int8-gptq", EXACT_RUNG} and not nearest.broken.endswith(
        "bytes"
    )
    reason = "; fewer bits lose more accuracy and run no faster, so no other file was tried" if only else ""
    hints = []
    if budget.broken(nearest.drop, 0, None):
        hints.append(f"`max_drop={math.ceil(100 * (nearest.drop or 0.0)) / 100:g}`")
    if budget.broken(None, nearest.bytes, None):
        hints.append(f"`max_bytes={nearest.bytes}`")
    if budget.broken(None, 0, nearest.latency_ms):
        hints.append(f"`max_latency={math.ceil(100 * (nearest.latency_ms or 0.0)) / 100:g}`")
    if builder.fewest_bytes is not None:
        reason += f"; bits chosen layer by layer would take about {builder.fewest_bytes:,.0f} bytes or more"
    of = f" of {judge.drop_of}" if budget.max_drop is not None else ""
    return (
        f"no file is within {budget}{of}, and none was written; the nearest of {len(builder.trials)} is "
        f"{nearest.name}, which {nearest.broken}{reason}; {' '.join(hints)} would accept it"
    )
