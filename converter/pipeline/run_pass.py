"""Run one pass of a recipe: check its requirements, run it, check its guarantees.

`run_kind` registers the function that runs a kind of pass, by the type of the pass. Everything else about a pass is a
member of the pass itself, see `passes.base.Pass`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from converter.cache.folder import NOWHERE, Cache
from converter.cache.steps import NO_CACHE, StepCache, codes_digest, kept
from converter.calibration.correction import correct_layers, float_network
from converter.calibration.make_up import make_up
from converter.calibration.range_trial import choose_ranges, trial_samples
from converter.calibration.sequential import solve_layers
from converter.calibration.stored_bits import with_stored_bits
from converter.channels.costs import layer_products
from converter.data.dataset import Dataset
from converter.engine.engine import Engine, InProcess
from converter.learn.learning import learn_rounding, require_trainable, runs_on, train
from converter.learn.training_file import TrainingFile
from converter.model_io.sizes import tensorwise_digest
from converter.model_io.user_code import described
from converter.pipeline.images import Images
from converter.pipeline.shards import calibrate_in_shards
from converter.qdq.floats import float_model
from converter.qdq.weights import Storage
from converter.recipes.recipe import Recipe
from converter.recipes.registry import PASSES
from converter.runtime.session import Progress
from passes.activations.activation_ranges import ActivationRanges
from passes.base import CorrectionPass, GraphPass, LayerPass, Pass, Stage
from passes.channels.prune_channels import PruneChannels
from passes.errors import ConvertError, DataError, QuantizationError
from passes.graph.check import check
from passes.ir.layer_names import require_known
from passes.ir.model import Model
from passes.ir.recurrent import recurrent_nodes
from passes.report import PassReport, require_complete
from passes.statistics import Needs, Stats
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat

__all__ = ["PassContext", "require", "require_runnable", "run_kind", "run_pass"]


@dataclass(frozen=True)
class PassContext:
    """Context in which the passes of a recipe run.

    Attributes:
        images: Images by their use.
        memory_budget: Bytes of activations in memory. Beyond it, activations go to files.
        recipe: Recipe of the passes. It has the random seed. The neighbours of a pass decide which layers a learning
            pass solves again, and which requirements are checked early.
        progress: Callback for progress.
        checkpoint: File for the state of a training. None: no state is written.
        metric: Metric that chooses the best epoch of a training. None: the share of right classes, or else the loss.
        cache: Where statistics, the choice of ranges, solved layers and learned blocks are kept.
        engine: Where statistics are measured.
        storage: Storage form of the weights in the file. None: that of the recipe.
    """

    images: Images
    memory_budget: int
    recipe: Recipe
    progress: Progress
    checkpoint: TrainingFile | None = None
    metric: Any = None
    cache: StepCache = NO_CACHE
    engine: Engine = InProcess()  # noqa: RUF009  (it has no state)
    storage: Storage | None = None


def run_pass(step: Pass, model: Model, context: PassContext) -> PassReport:
    """Run a pass and check what it requires and ensures. The model is changed in place.

    Raises:
        QuantizationError: The model does not meet the requirements, or the pass left an invalid model.
        DataError: The pass wants statistics, but there are no images.
    """
    for checked in _checked_before(step, context.recipe.passes):
        require(checked, model, context)
    started = time.perf_counter()
    with _errors_of_others(step):
        report = run_kind(step, model, context)
    seconds = time.perf_counter() - started
    check(model, step.name)
    report = require_complete(report, step.name, model.layers(), recurrent_nodes(model.graph))
    step.ensures(model)
    return dataclasses.replace(report, name=step.name, seconds=seconds)


@contextlib.contextmanager
def _errors_of_others(step: Pass) -> Iterator[None]:
    """Turn any exception of a pass of another package into one that names the pass and the line."""
    if _is_own(step):
        yield
        return
    try:
        yield
    except ConvertError:
        raise
    except Exception as error:
        raise QuantizationError(f"{step.name} raised {described(error)}") from error


def _is_own(step: Pass) -> bool:
    """Whether a pass is one of this package, whose source is part of every key of the cache."""
    return PASSES.get(step.name) is type(step)


def _state(model: Model) -> dict[str, Any]:
    """Return what the quantization of a model's layers depends on, besides its graph."""
    return {
        "activations": model.activation_qparams,
        "float_layers": model.float_reasons,
        "float_activations": model.float_activations,
        "rules": model.rules,
    }


def _checked_before(step: Pass, passes: Sequence[Pass]) -> Sequence[Pass]:
    """Return the passes whose requirements are checked before this pass runs.

    While the float graph changes, every pass is checked on its own. Once the graph has its final form, all remaining
    passes are checked together, before activations are calibrated and layers are solved.
    """
    later = [each for each in passes if each.stage > Stage.FLOAT]
    if step.stage <= Stage.FLOAT or step not in later:
        return (step,)
    return later if step is later[0] else ()


@singledispatch
def require(step: Pass, model: Model, context: PassContext) -> None:  # noqa: ARG001  (kinds read it)
    """Check the requirements of a pass on a model.

    A kind of pass that also has requirements on images or on the machine registers its own function.

    Raises:
        QuantizationError: See `Pass.requires`.
    """
    step.requires(model)


@singledispatch
def run_kind(step: Pass, model: Model, context: PassContext) -> PassReport:  # noqa: ARG001  (kinds read them)
    """Run a pass of any kind. A new kind of this project registers its function once.

    Raises:
        QuantizationError: No function is registered for this kind.
    """
    raise _of_no_kind(step)


def require_runnable(passes: Iterable[Pass]) -> None:
    """Refuse passes of a kind that no function runs.

    Raises:
        QuantizationError: There is such a pass. The message names the kinds that there are.
    """
    for step in passes:
        if run_kind.dispatch(type(step)) is run_kind.dispatch(object):
            raise _of_no_kind(step)


def _of_no_kind(step: Pass) -> QuantizationError:
    return QuantizationError(
        f"{step.name}: {type(step).__name__} is of no kind that can be run; derive it from GraphPass, LayerPass or "
        "CorrectionPass"
    )


@run_kind.register
def _run_graph_pass(step: GraphPass, model: Model, context: PassContext) -> PassReport:
    return step.apply(model, _statistics(step, model, context, context.images.shown_to(step)))


def _statistics(step: GraphPass, model: Model, context: PassContext, data: Dataset | None) -> Stats:
    """Measure what a pass needs on samples.

    Raises:
        QuantizationError: The pass says what it needs in a wrong way.
        DataError: There are no images to measure it on.
    """
    needs, stats = step.needs(model), Stats()
    if not isinstance(needs, Needs):
        raise QuantizationError(f"{step.name}: needs() returned {type(needs).__name__}; return Needs(...)")
    if needs:
        if data is None:
            raise DataError(
                f"{step.name} needs calibration data; use `calibration=` with an .npz or a folder of images"
            )
        require_known(sorted(needs.channels | needs.moments), model.layers(), f"needs() of {step.name}")
        unknown = ({*needs.histograms} | {name for name, _ in needs.tensors}) - model.graph.tensors().keys()
        if unknown:
            raise QuantizationError(f"needs() of {step.name}: no tensor is named {min(unknown)!r}")
        facts = {"needs": needs, "seed": context.recipe.seed, "memory": context.memory_budget}
        # Moments of all layers at once would take more room than everything else.
        cache = NOWHERE if needs.moments else context.cache.of("statistics", model, data, **facts)
        stats = kept(
            cache,
            "statistics",
            lambda: calibrate_in_shards(
                model, needs, data, context.progress, context.engine, context.recipe.seed, context.memory_budget
            ),
        )
    return stats


@run_kind.register
def _run_prune_channels(step: PruneChannels, model: Model, context: PassContext) -> PassReport:
    """Choose channels, let all layers make up for them one after the other, and take them out."""
    data = context.images.shown_to(step)
    stats = _statistics(step, model, context, data)
    reference = Model(model.graph.copy(), model.rules)
    removal = step.choose(model, stats)
    sample = None if data is None else next(iter(data.batches(1)))
    before = 0 if sample is None else sum(layer_products(model, sample).values())
    notes: tuple[str, ...] = ()
    removed = removal.inputs(model)
    if step.make_up and step.sequential and removed and data is not None:
        budget, seed = context.memory_budget, context.recipe.seed
        notes = make_up(model, reference, removed, data, context.progress, memory_budget=budget, seed=seed)
    report = step.shrink(model, removal)
    taken = report.taken
    if taken is not None and sample is not None:
        taken = dataclasses.replace(taken, macs=(before, sum(layer_products(model, sample).values())))
        notes = (taken.describe(), *report.notes[1:], *notes)
    return dataclasses.replace(report, notes=notes or report.notes, taken=taken)


@run_kind.register
def _run_activation_ranges(step: ActivationRanges, model: Model, context: PassContext) -> PassReport:
    data, seed = context.images.shown_to(step), context.recipe.seed
    parts = None if data is None else trial_samples(step, data, seed)
    if data is None or parts is None:
        return step.apply(model, _statistics(step, model, context, data))
    first, second = (_statistics(step, model, context, part) for part in parts)
    facts = {"step": step, "seed": seed, "memory": context.memory_budget, **_state(model)}
    cache = context.cache.of("ranges", model, data, **facts) if _is_own(step) else NOWHERE
    method, notes = kept(cache, "ranges", lambda: _choice(step, model, first, parts[1]))
    chosen = step if method == step.method else dataclasses.replace(step, method="minmax")
    report = chosen.apply(model, Stats.joined(first, second))
    return dataclasses.replace(report, notes=(*notes, *report.notes))


def _choice(step: ActivationRanges, model: Model, stats: Stats, judge: Dataset) -> tuple[str, tuple[str, ...]]:
    chosen, notes = choose_ranges(step, model, stats, judge)
    return chosen.method, notes


@run_kind.register
def _run_layer_pass(step: LayerPass, model: Model, context: PassContext) -> PassReport:
    data, cache = context.images.shown_to(step), NOWHERE
    solver, widened = with_stored_bits(step, model, context.storage or context.recipe.storage)
    if data is not None and step.wants_moments and _is_own(step):
        facts = {"step": solver, "seed": context.recipe.seed, "memory": context.memory_budget, **_state(model)}
        cache = context.cache.of("layers", model, data, **facts)
    report = solve_layers(
        model,
        solver,
        data,
        context.progress,
        memory_budget=context.memory_budget,
        seed=context.recipe.seed,
        solved=cache,
    )
    return dataclasses.replace(report, notes=(*step.matched(model), *widened, *report.notes))


@run_kind.register
def _run_correction_pass(step: CorrectionPass, model: Model, context: PassContext) -> PassReport:
    data = context.images.shown_to(step)
    return correct_layers(
        model, step, data, context.progress, memory_budget=context.memory_budget, seed=context.recipe.seed
    )


@run_kind.register
def _run_learned_rounding(step: LearnedRounding, model: Model, context: PassContext) -> PassReport:
    recipe, data = context.recipe, context.images.shown_to(step)
    solver = recipe.solver_before(step)
    cache = NOWHERE
    if data is not None and _is_own(step) and (solver is None or _is_own(solver)):
        cache = _cache_of_blocks(step, solver, model, data, context)
    return learn_rounding(
        model,
        step,
        data,
        context.progress,
        solver=solver,
        memory_budget=context.memory_budget,
        seed=recipe.seed,
        kept=cache,
    )


def _cache_of_blocks(
    step: LearnedRounding, solver: LayerPass | None, model: Model, data: Dataset, context: PassContext
) -> Cache:
    """Return the cache of learned blocks. They depend on torch, on its device, and on all codes and float weights."""
    if context.cache.folder is None:
        return NOWHERE
    facts = {
        "seed": context.recipe.seed,
        "memory": context.memory_budget,
        "exact": tensorwise_digest(float_model(float_network(model).graph)),
        "codes": codes_digest(model),
        "torch": runs_on(step.device, step.name),
        **_state(model),
    }
    return context.cache.of("blocks", model, data, step=step, solver=solver, **facts)


@run_kind.register
def _run_training(step: Qat, model: Model, context: PassContext) -> PassReport:
    data, seed = context.images.shown_to(step), context.recipe.seed
    checkpoint, metric = context.checkpoint, context.metric
    return train(model, step, data, context.progress, seed=seed, checkpoint=checkpoint, metric=metric)


@require.register
def _require_trainable(step: Qat, model: Model, context: PassContext) -> None:
    """Require that torch has gradients for the whole network."""
    step.requires(model)
    data = context.images.shown_to(step)
    if data is not None:
        require_trainable(model, data)
