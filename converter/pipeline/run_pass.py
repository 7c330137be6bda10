"""One pass of a recipe, with the data and the statistics that it asks for."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from converter.calibration.correction import correct_layers
from converter.calibration.sequential import solve_layers
from converter.calibration.statistics import calibrate
from converter.learn.learning import learn_rounding, require_trainable, train
from converter.learn.training_file import TrainingFile
from converter.pipeline.images import Images
from converter.recipes.recipe import Recipe
from converter.recipes.registry import Pass
from converter.runtime.session import Progress, ignore_warning
from passes.base import CorrectionPass, LayerPass
from passes.ir.model import Model
from passes.report import PassReport
from passes.statistics import Stats
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat

__all__ = ["PassContext", "run_pass"]


@dataclass(frozen=True)
class PassContext:
    """What passes work with.

    Attributes:
        images: who sees which.
        budget: bytes of activations held in memory before they go to files.
        recipe: that the passes are of; its seed is of everything drawn at random, and what is before and behind a pass
            decides what learning solves again and what is refused early.
        progress: called as work goes on.
        checkpoint: file that a training leaves its state in; None: it leaves none.
        warn: called with what the caller should know.
    """

    images: Images
    budget: int
    recipe: Recipe
    progress: Progress
    checkpoint: TrainingFile | None = None
    warn: Callable[[str], None] = ignore_warning


def run_pass(step: Pass, model: Model, context: PassContext) -> PassReport:
    """Run it; the model is changed in place."""
    data, progress, seed = context.images.shown_to(step), context.progress, context.recipe.seed
    if isinstance(step, LayerPass):
        require_trainable(context.recipe.passes, model, context.images.training)
        return solve_layers(model, step, data, progress, budget=context.budget, seed=seed)
    if isinstance(step, CorrectionPass):
        return correct_layers(model, step, data, progress, budget=context.budget, seed=seed)
    if isinstance(step, LearnedRounding):
        solver = context.recipe.solver_before(step)
        return learn_rounding(model, step, data, progress, solver=solver, budget=context.budget, seed=seed)
    if isinstance(step, Qat):
        return train(model, step, data, progress, seed=seed, checkpoint=context.checkpoint, warn=context.warn)
    started = time.perf_counter()
    needs = step.needs(model)
    stats = calibrate(model, needs, data, progress, seed=seed) if needs and data is not None else Stats()
    return dataclasses.replace(step.apply(model, stats), seconds=time.perf_counter() - started)
