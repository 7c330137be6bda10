"""From a model to a quantized one: load -> [calibrate -> pass -> check]* -> emit -> evaluate."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from converter.calibration.sequential import DEFAULT_BUDGET
from converter.data.preprocess import Preprocess, stored_preprocess
from converter.evaluation.evaluate import evaluate_pair
from converter.learn.learning import require_device
from converter.model_io.open import assumed_shape, open_model, require_layers, suggesting_shape
from converter.pipeline.footprint import Footprint
from converter.pipeline.images import open_data, require_calibration
from converter.pipeline.result import Result, layer_reports, stamp, versions
from converter.pipeline.resume import training_file
from converter.pipeline.run_pass import PassContext, run_pass
from converter.qdq.reader import read_qdq, requantized
from converter.qdq.writer import emit
from converter.recipes.builtin import find_recipe, learning_on
from converter.recipes.overrides import with_layers, with_overrides
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.runtime.session import Progress, ignore_warning, no_progress
from converter.speed.search import find_slow_layers, leaving, require_measurable
from converter.targets.catalog import DEFAULT_TARGET, find_target
from converter.verification.fit import fix_batch, require_fit, require_kernels, require_weight_only
from passes.base import Device, Stage
from passes.ir.model import Model

__all__ = ["convert"]


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
    checkpoint: Path | None = None,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | None = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    limit: int | None = None,
    seed: int | None = None,
    device: Device | None = None,
    measure_speed: bool = False,
    memory_budget: int = DEFAULT_BUDGET,
    progress: Progress = no_progress,
    warn: Callable[[str], None] = ignore_warning,
) -> Result:
    """Quantize a model.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        calibration: .npz, image folder, ``FILE.py:CALLABLE``, or arrays; see `converter.data.dataset.load_data`.
        recipe: name, TOML file or `Recipe`; or an .onnx file, to convert as it was.
        target: where the file will run; see `converter.targets.catalog`.
        exclude: names of layers that stay in float, besides those the recipe leaves.
        bits: weight bits by layer name; go before the recipe's.
        evaluation: data to measure the result on, in the same forms as ``calibration``.
        training: what a pass that trains learns from, in the same forms; the calibration data if not given, and where
            only this is given its images calibrate too.
        checkpoint: file in which a training keeps where it stands, so that the same call goes on after a kill.
        weights: file of weights for a torch factory.
        input_shape: of a torch model's input, with the batch; (1, 3, 224, 224) if not given.
        preprocess: for uint8 data; goes before the recipe's, and that before what the model's metadata say.
        limit: calibration images used; goes before the recipe's.
        seed: of everything drawn at random; goes before the recipe's.
        device: where passes learn; goes before the recipe's. Refused where no pass learns.
        measure_speed: leave activations in float where this machine runs the file faster so; the recipe in the result
            says which, and gives the same file without measuring.
        memory_budget: bytes of activations the walk holds in memory before it uses files.
        progress: called as work goes on.
        warn: called with what the caller should know and may not have meant.

    Raises:
        ConvertError: anything a user can mend; the message says how.
    """
    started = time.perf_counter()
    plan = with_layers(learning_on(find_recipe(recipe), device), exclude, bits)
    chosen = find_target(target)
    require_calibration(calibration, training, checkpoint, plan)
    require_device(plan.passes)
    if measure_speed:
        require_measurable(plan, chosen)
    footprint = Footprint()
    with footprint.step("open model"):
        source, found = read_qdq(open_model(model, weights=weights, input_shape=input_shape))
    if found and not plan.keeps:
        warn(requantized(found))
    require_layers(source)
    require_fit(source, chosen)
    if not any(step.stage == Stage.RANGES for step in plan.passes):
        require_weight_only(source, chosen)
    plan = with_overrides(plan, stored_preprocess(source), preprocess, limit, seed)
    with footprint.step("open data"), suggesting_shape(assumed_shape([model], input_shape)):
        images = open_data(calibration, evaluation, training, source, plan, preprocess, warn)
        state = training_file(checkpoint, source, plan, target, images)

    requested, speed = RequestedLayers(exclude, bits or {}), None
    if measure_speed and images.calibration is not None:
        with footprint.step("measure speed"), requested.refused():
            speed = find_slow_layers(source, plan, chosen, next(images.calibration.batches(1)).feeds, progress)
        plan = leaving(plan, speed)

    work = Model(gs.import_onnx(source), chosen.rules, existing_qparams=found)
    context = PassContext(images, memory_budget, plan, progress, state, warn)
    reports = []
    for step in plan.passes:
        with footprint.step(step.name), requested.before(step, work):
            reports.append(run_pass(step, work, context))

    storage = chosen.storage(plan.storage)
    with footprint.step("emit"):
        quantized = emit(work, storage)
        layers = layer_reports(work, reports, storage)
    require_kernels(quantized, chosen)
    if chosen.static_shapes:
        fix_batch(quantized)
    calibrated = None if images.calibration is None else images.calibration.describe()
    trained = images.describe_training(plan)
    facts = {"target": target, "calibration": calibrated, "training": trained, "versions": versions()}
    measured = {} if speed is None else {"speed": speed.to_json()}
    stamp(quantized, plan, layers, work.float_activations, facts | measured)
    metrics = None
    if images.evaluation is not None:
        with footprint.step("evaluate"):
            metrics = evaluate_pair(source, quantized, images.evaluation, plan.name, progress)
    seconds = time.perf_counter() - started
    return Result(
        quantized,
        source,
        plan,
        target,
        layers,
        tuple(reports),
        metrics,
        calibrated,
        seconds,
        training=trained,
        steps=footprint.steps,
        speed=speed,
    )
