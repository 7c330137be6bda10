"""One pass of a recipe: what it requires, how its kind is run, what it ensures.

How a kind of pass is run is registered here once, by its type, with `run_kind`. Everything else that the tool wants to
know of a pass it asks the pass itself, see `passes.base.Pass`.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

from converter.calibration.correction import correct_layers
from converter.calibration.sequential import solve_layers
from converter.calibration.statistics import calibrate
from converter.learn.learning import learn_rounding, require_trainable, train
from converter.learn.training_file import TrainingFile
from converter.pipeline.images import Images
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress
from passes.base import CorrectionPass, GraphPass, LayerPass, Pass, Stage
from passes.errors import DataError, QuantizationError
from passes.graph.check import check
from passes.ir.model import Model
from passes.report import PassReport
from passes.statistics import Stats
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat

__all__ = ["PassContext", "require", "run_kind", "run_pass"]


@dataclass(frozen=True)
class PassContext:
    """What passes work with.

    Attributes:
        images: who sees which.
        budget: bytes of activations held in memory before they go to files.
        recipe: that the passes are of; its seed is of everything drawn at random, and what is before and behind a pass
            decides what learning solves again and who is asked early.
        progress: called as work goes on.
        checkpoint: file that a training leaves its state in; None: it leaves none.
    """

    images: Images
    budget: int
    recipe: Recipe
    progress: Progress
    checkpoint: TrainingFile | None = None


def run_pass(step: Pass, model: Model, context: PassContext) -> PassReport:
    """Run it, and hold it to what it requires and ensures; the model is changed in place.

    Raises:
        QuantizationError: the model is not what the pass requires, or the pass left it as no pass may.
        DataError: the pass wants statistics, and there are no images.
    """
    for asked in _asked_before(step, context.recipe.passes):
        require(asked, model, context)
    report = run_kind(step, model, context)
    check(model, step.name)
    step.ensures(model)
    return report


def _asked_before(step: Pass, passes: Sequence[Pass]) -> Sequence[Pass]:
    """The passes that are asked what they require before this one runs.

    While the float graph changes, each pass is asked for itself. Once it has its final form, all others are asked at
    once, before activations are calibrated and layers are solved.
    """
    later = [each for each in passes if each.stage > Stage.FLOAT]
    if step.stage <= Stage.FLOAT or step not in later:
        return (step,)
    return later if step is later[0] else ()


@singledispatch
def require(step: Pass, model: Model, context: PassContext) -> None:  # noqa: ARG001  (kinds read it)
    """What a pass requires of a model; a kind that also requires something of images or the machine registers its own.

    Raises:
        QuantizationError: see `Pass.requires`.
    """
    step.requires(model)


@singledispatch
def run_kind(step: Pass, model: Model, context: PassContext) -> PassReport:  # noqa: ARG001  (kinds read them)
    """How a kind of pass is run. A new kind, here or in another package, registers its function once.

    Raises:
        QuantizationError: nobody registered this kind.
    """
    raise QuantizationError(
        f"{step.name}: nothing says how a {type(step).__name__} is run; derive it from GraphPass, LayerPass or "
        "CorrectionPass, or register a function with converter.pipeline.run_pass.run_kind"
    )


@run_kind.register
def _run_graph_pass(step: GraphPass, model: Model, context: PassContext) -> PassReport:
    started, data = time.perf_counter(), context.images.shown_to(step)
    needs, stats = step.needs(model), Stats()
    if needs:
        if data is None:
            raise DataError(f"{step.name} needs calibration data; use `calibration=` with images or an .npz")
        stats = calibrate(model, needs, data, context.progress, seed=context.recipe.seed)
    return dataclasses.replace(step.apply(model, stats), seconds=time.perf_counter() - started)


@run_kind.register
def _run_layer_pass(step: LayerPass, model: Model, context: PassContext) -> PassReport:
    data = context.images.shown_to(step)
    return solve_layers(model, step, data, context.progress, budget=context.budget, seed=context.recipe.seed)


@run_kind.register
def _run_correction_pass(step: CorrectionPass, model: Model, context: PassContext) -> PassReport:
    data = context.images.shown_to(step)
    return correct_layers(model, step, data, context.progress, budget=context.budget, seed=context.recipe.seed)


@run_kind.register
def _run_learned_rounding(step: LearnedRounding, model: Model, context: PassContext) -> PassReport:
    recipe, data = context.recipe, context.images.shown_to(step)
    solver = recipe.solver_before(step)
    return learn_rounding(model, step, data, context.progress, solver=solver, budget=context.budget, seed=recipe.seed)


@run_kind.register
def _run_training(step: Qat, model: Model, context: PassContext) -> PassReport:
    data, seed = context.images.shown_to(step), context.recipe.seed
    return train(model, step, data, context.progress, seed=seed, checkpoint=context.checkpoint)


@require.register
def _require_trainable(step: Qat, model: Model, context: PassContext) -> None:
    """Torch has gradients for all of the network."""
    step.requires(model)
    data = context.images.shown_to(step)
    if data is not None:
        require_trainable(model, data)
