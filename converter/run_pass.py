"""One pass of a recipe, with what it asks for: statistics, the walk, or the images to learn from."""

import dataclasses
import time

from converter.calibrate import calibrate
from converter.correct import correct_layers
from converter.data import Dataset
from converter.learn import learn_rounding
from converter.recipe import Pass
from converter.runtime import Progress
from converter.walk import solve_layers
from passes.base import CorrectionPass, LayerPass, Model, PassReport, Stats
from passes.learned_rounding import LearnedRounding

__all__ = ["run_pass"]


def run_pass(step: Pass, model: Model, data: Dataset | None, budget: int, seed: int, progress: Progress) -> PassReport:
    """Run a pass on the model, which it changes.

    Args:
        step: the pass.
        model: as the passes before left it.
        data: calibration images, if there are any.
        budget: bytes of activations held in memory.
        seed: of everything drawn at random.
        progress: called as work goes on.
    """
    if isinstance(step, LayerPass):
        return solve_layers(model, step, data, progress, budget=budget, seed=seed)
    if isinstance(step, CorrectionPass):
        return correct_layers(model, step, data, progress, budget=budget, seed=seed)
    if isinstance(step, LearnedRounding):
        return learn_rounding(model, step, data, progress, budget=budget, seed=seed)
    started = time.perf_counter()
    needs = step.needs(model)
    stats = calibrate(model, needs, data, progress, seed=seed) if needs and data is not None else Stats()
    return dataclasses.replace(step.apply(model, stats), seconds=time.perf_counter() - started)
