"""One pass of a recipe, with the data and the statistics that it asks for."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from converter.calibrate import calibrate
from converter.conversion_data import Images
from converter.correct import correct_layers
from converter.learn import TrainingFile, learn_rounding, require_trainable, train
from converter.recipe import Pass, Recipe
from converter.runtime import Progress, unheard
from converter.walk import solve_layers
from passes.base import CorrectionPass, LayerPass, Model, PassReport, Stats
from passes.learned_rounding import LearnedRounding
from passes.qat import Qat

__all__ = ["Means", "run_pass"]


@dataclass(frozen=True)
class Means:
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
    warn: Callable[[str], None] = unheard


def run_pass(step: Pass, model: Model, means: Means) -> PassReport:
    """Run it; the model is changed in place."""
    data, progress, seed = means.images.shown_to(step), means.progress, means.recipe.seed
    if isinstance(step, LayerPass):
        require_trainable(means.recipe.passes, model, means.images.training)
        return solve_layers(model, step, data, progress, budget=means.budget, seed=seed)
    if isinstance(step, CorrectionPass):
        return correct_layers(model, step, data, progress, budget=means.budget, seed=seed)
    if isinstance(step, LearnedRounding):
        solver = means.recipe.solver_before(step)
        return learn_rounding(model, step, data, progress, solver=solver, budget=means.budget, seed=seed)
    if isinstance(step, Qat):
        return train(model, step, data, progress, seed=seed, checkpoint=means.checkpoint, warn=means.warn)
    started = time.perf_counter()
    needs = step.needs(model)
    stats = calibrate(model, needs, data, progress, seed=seed) if needs and data is not None else Stats()
    return dataclasses.replace(step.apply(model, stats), seconds=time.perf_counter() - started)
