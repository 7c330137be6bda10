"""From a model to a quantized one: prepare -> [statistics -> pass -> check]* -> write -> evaluate."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from converter.data.preprocess import Preprocess
from converter.evaluation.evaluate import evaluate_pair
from converter.model_io.open import ExportOptions
from converter.pipeline.finish import write_file
from converter.pipeline.prepare import Prepared, prepare
from converter.pipeline.result import Result
from converter.pipeline.run_pass import PassContext, run_pass
from converter.pipeline.settings import Settings
from converter.recipes.builtin import find_recipe, learning_on
from converter.recipes.overrides import with_layers
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.runtime.session import Progress, no_progress
from converter.speed.search import Speed, find_slow_layers, leaving
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.ir.model import Model

__all__ = ["convert", "quantize"]


def convert(
    model: Any,
    calibration: Any = None,
    *,
    recipe: str | Path | Recipe = "int8",
    target: str = DEFAULT_TARGET,
    exclude: Sequence[str] = (),
    bits: Mapping[str, int] | None = None,
    evaluation: Any = None,
    training: Any = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Result:
    """Quantize a model.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        calibration: .npz, image folder, ``FILE.py:CALLABLE``, or arrays; see `converter.load_data`.
        recipe: name, TOML file or `Recipe`; or an .onnx file, to convert as it was.
        target: where the file will run; `converter.find_target` knows their names.
        exclude: names of layers that stay in float, besides those the recipe leaves.
        bits: weight bits by layer name. They override the recipe's.
        evaluation: data to measure the result on, in the same forms as ``calibration``.
        training: what a pass that trains learns from, in the same forms. Without it the calibration data are. Where
            only this is given, its images calibrate too.
        export: weights and input shape of a torch model.
        preprocess: for uint8 data. It overrides the recipe's, and that overrides what the model's metadata say.
        settings: how it is done: images, seed, device, memory.
        progress: called as work goes on.

    Raises:
        ConvertError: anything a user can mend; the message says how.
    """
    plan = with_layers(learning_on(find_recipe(recipe), settings.device), exclude, bits)
    job = prepare(
        model,
        calibration,
        plan,
        find_target(target),
        evaluation=evaluation,
        training=training,
        requested=RequestedLayers(exclude, bits or {}),
        export=export,
        preprocess=preprocess,
        settings=settings,
    )
    return quantize(job.warn(), progress)


def quantize(job: Prepared, progress: Progress) -> Result:
    """Run the passes of a recipe, write the file and measure it."""
    footprint, speed = job.footprint, None
    if job.settings.measure_speed:
        with footprint.step("measure speed"), job.requested.refused():
            speed = _measure_speed(job, progress)
        job = dataclasses.replace(job, recipe=leaving(job.recipe, speed))

    work = Model(gs.import_onnx(job.source), job.target.rules, existing_qparams=job.existing)
    context = PassContext(job.images, job.settings.memory_budget, job.recipe, progress, job.checkpoint)
    reports = []
    for step in job.recipe.passes:
        with footprint.step(step.name), job.requested.before(step, work):
            reports.append(run_pass(step, work, context))

    quantized, layers = write_file(work, reports, job, speed)
    metrics = None
    if job.images.evaluation is not None:
        with footprint.step("evaluate"):
            metrics = evaluate_pair(job.source, quantized, job.images.evaluation, job.recipe.name, progress)
    return Result(
        model=quantized,
        reference=job.source,
        recipe=job.recipe,
        target=job.target.name,
        layers=layers,
        passes=tuple(reports),
        metrics=metrics,
        calibration=job.images.describe_calibration(),
        training=job.images.describe_training(job.recipe),
        seconds=footprint.seconds,
        steps=footprint.steps,
        speed=speed,
    )


def _measure_speed(job: Prepared, progress: Progress) -> Speed:
    """Which layers this machine runs faster with float activations."""
    assert job.images.calibration is not None  # what quantizes activations has looked at images
    image = next(job.images.calibration.batches(1)).feeds
    return find_slow_layers(job.source, job.recipe, job.target, image, progress)
