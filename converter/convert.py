"""From a float model to a quantized one: load -> [calibrate -> pass -> check]* -> emit -> evaluate."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from converter.calibrate import calibrate
from converter.conversion_data import open_data, require_calibration
from converter.correct import correct_layers
from converter.data import Dataset, Preprocess, stored_preprocess
from converter.emit.qdq import emit
from converter.evaluate import Evaluation, evaluate
from converter.fit_target import fix_batch, require_fit, require_kernels, require_weight_only
from converter.learn import learn_rounding
from converter.learn.held_out import without_held_out
from converter.open import assumed_shape, open_model, suggesting_shape
from converter.recipe import Pass, Recipe, find_recipe, learning_on
from converter.result import Result, layer_reports, stamp, versions
from converter.runtime import Progress
from converter.save import write_onnx
from converter.speed.search import find_slow_layers, leaving, require_measurable
from converter.stored_weights import Tensors
from converter.targets import find_target
from converter.walk import DEFAULT_BUDGET, solve_layers
from passes.activation_ranges import ActivationRanges
from passes.base import CorrectionPass, LayerPass, Model, PassReport, Stats
from passes.check import check
from passes.errors import ModelError
from passes.learned_rounding import Device, LearnedRounding
from passes.linear import LINEAR_OPS

__all__ = ["convert"]


def silent(what: str, done: int, total: int) -> None:
    """Progress that is not shown."""


def unheard(warning: str) -> None:
    """A warning that nobody asked for."""


def convert(
    model: Any,
    calibration: Any = None,
    *,
    recipe: str | Path | Recipe = "int8",
    target: str = "cpu",
    evaluation: Any = None,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | None = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    limit: int | None = None,
    seed: int | None = None,
    device: Device | None = None,
    measure_speed: bool = False,
    memory_budget: int = DEFAULT_BUDGET,
    progress: Progress = silent,
    warn: Callable[[str], None] = unheard,
) -> Result:
    """Quantize a model.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        calibration: .npz, image folder, ``FILE.py:CALLABLE``, or arrays; see `converter.data.load_data`.
        recipe: name, TOML file or `Recipe`.
        target: where the file will run; see `converter.targets`.
        evaluation: data to measure the result on, in the same forms as ``calibration``.
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
    plan = learning_on(find_recipe(recipe), device)
    chosen = find_target(target)
    require_calibration(calibration, plan)
    if measure_speed:
        require_measurable(plan, chosen)
    source = open_model(model, weights=weights, input_shape=input_shape)
    _refuse_without_layers(source)
    require_fit(source, chosen)
    if not any(isinstance(step, ActivationRanges) for step in plan.passes):
        require_weight_only(source, chosen)
    plan = _with_overrides(plan, stored_preprocess(source), preprocess, limit, seed)
    with suggesting_shape(assumed_shape([model], input_shape)):
        data, unseen = open_data(calibration, evaluation, source, plan, preprocess, warn)

    speed = None
    if measure_speed and data is not None:
        speed = find_slow_layers(source, plan, chosen, next(data.batches(1)).feeds, progress)
        plan = leaving(plan, speed)

    work = Model(gs.import_onnx(source), chosen.rules)
    reports = []
    fitting = without_held_out(data, plan.passes, plan.seed)
    for step in plan.passes:
        shown = data if isinstance(step, LearnedRounding) else fitting
        reports.append(_run(step, work, shown, memory_budget, plan.seed, progress))
        check(work, step.name)

    storage = chosen.storage(plan.storage)
    quantized = emit(work, storage)
    require_kernels(quantized, chosen)
    if chosen.static_shapes:
        fix_batch(quantized)
    layers = layer_reports(work, reports, storage)
    calibrated = None if data is None else data.describe()
    facts = {"target": target, "calibration": calibrated, "versions": versions()}
    measured = {} if speed is None else {"speed": speed.to_json()}
    stamp(quantized, plan, layers, work.float_activations, facts | measured)
    metrics = None if unseen is None else _measure(source, quantized, unseen, plan.name, progress)
    seconds = time.perf_counter() - started
    return Result(quantized, source, plan, target, layers, tuple(reports), metrics, calibrated, speed, seconds)


def _refuse_without_layers(model: onnx.ModelProto) -> None:
    found = sorted({node.op_type for node in Tensors.of(model.graph).nodes})
    if not LINEAR_OPS.intersection(found):
        raise ModelError(
            f"nothing to quantize: the model has no {', '.join(sorted(LINEAR_OPS))}, only {', '.join(found)}; "
            "give the model that holds the layers"
        )


def _run(step: Pass, model: Model, data: Dataset | None, budget: int, seed: int, progress: Progress) -> PassReport:
    """One pass, with the statistics it asks for."""
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


def _with_overrides(
    recipe: Recipe, stored: Preprocess, preprocess: Preprocess, limit: int | None, seed: int | None
) -> Recipe:
    return dataclasses.replace(
        recipe,
        preprocess=stored.merge(recipe.preprocess).merge(preprocess),
        limit=recipe.limit if limit is None else limit,
        seed=recipe.seed if seed is None else seed,
    )


def _measure(
    reference: onnx.ModelProto, quantized: onnx.ModelProto, data: Dataset, name: str, progress: Progress
) -> Evaluation:
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        paths = [Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"]
        for model, path in zip((reference, quantized), paths, strict=True):
            write_onnx(model, path)
        return evaluate(paths, data, names=["float", name], progress=progress)
