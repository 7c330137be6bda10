"""From a float model to a quantized one: load -> [calibrate -> pass -> check]* -> emit -> evaluate."""

import dataclasses
import importlib.metadata
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from converter.calibrate import calibrate
from converter.data import Dataset, Preprocess, input_specs, load_data
from converter.emit.qdq import emit
from converter.evaluate import Evaluation, evaluate
from converter.learn import learn_rounding
from converter.open import open_model
from converter.recipe import Pass, Recipe, find_recipe
from converter.result import Result, layer_reports, stamp
from converter.runtime import Progress
from converter.targets import find_target
from converter.walk import DEFAULT_BUDGET, solve_layers
from passes.base import LayerPass, Model, PassReport, Stats
from passes.check import check
from passes.errors import DataError
from passes.learned_rounding import LearnedRounding

__all__ = ["convert"]


def silent(what: str, done: int, total: int) -> None:
    """Progress that is not shown."""


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
    memory_budget: int = DEFAULT_BUDGET,
    progress: Progress = silent,
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
        preprocess: for uint8 data; goes before the recipe's.
        limit: calibration images used; goes before the recipe's.
        seed: of everything drawn at random; goes before the recipe's.
        memory_budget: bytes of activations the walk holds in memory before it uses files.
        progress: called as work goes on.

    Raises:
        ConvertError: anything a user can mend; the message says how.
    """
    started = time.perf_counter()
    plan = _with_overrides(find_recipe(recipe), preprocess, limit, seed)
    rules = find_target(target).rules
    source = open_model(model, weights=weights, input_shape=input_shape)
    data = _calibration(calibration, source, plan)
    unseen = _evaluation(evaluation, source, plan)

    work = Model(gs.import_onnx(source), rules)
    reports = []
    for step in plan.passes:
        reports.append(_run(step, work, data, memory_budget, progress))
        check(work, step.name)

    quantized = emit(work, plan.storage)
    layers = layer_reports(work, reports)
    stamp(quantized, plan, layers, _facts(target, data))
    metrics = None if unseen is None else _measure(source, quantized, unseen, plan.name, progress)
    seconds = time.perf_counter() - started
    return Result(quantized, source, plan, target, layers, tuple(reports), metrics, seconds)


def _run(step: Pass, model: Model, data: Dataset | None, budget: int, progress: Progress) -> PassReport:
    """One pass, with the statistics it asks for."""
    if isinstance(step, LayerPass):
        return solve_layers(model, step, data, progress, budget=budget)
    if isinstance(step, LearnedRounding):
        return learn_rounding(model, step, data, progress, budget=budget)
    started = time.perf_counter()
    needs = step.needs(model)
    stats = calibrate(model, needs, data, progress) if needs and data is not None else Stats()
    return dataclasses.replace(step.apply(model, stats), seconds=time.perf_counter() - started)


def _with_overrides(recipe: Recipe, preprocess: Preprocess, limit: int | None, seed: int | None) -> Recipe:
    return dataclasses.replace(
        recipe,
        preprocess=recipe.preprocess.merge(preprocess),
        limit=recipe.limit if limit is None else limit,
        seed=recipe.seed if seed is None else seed,
    )


def _calibration(spec: Any, model: onnx.ModelProto, recipe: Recipe) -> Dataset | None:
    if spec is None:
        if recipe.needs_calibration:
            raise DataError(f"recipe {recipe.name!r} needs calibration data; use --calibration with images or an .npz")
        return None
    if isinstance(spec, Dataset):
        return spec.limit(recipe.limit, recipe.seed)
    return load_data(spec, input_specs(model), preprocess=recipe.preprocess, limit=recipe.limit, seed=recipe.seed)


def _evaluation(spec: Any, model: onnx.ModelProto, recipe: Recipe) -> Dataset | None:
    if spec is None or isinstance(spec, Dataset):
        return spec
    return load_data(spec, input_specs(model), preprocess=recipe.preprocess)


def _measure(
    reference: onnx.ModelProto, quantized: onnx.ModelProto, data: Dataset, name: str, progress: Progress
) -> Evaluation:
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        paths = [Path(folder) / "float.onnx", Path(folder) / f"{name}.onnx"]
        for model, path in zip((reference, quantized), paths, strict=True):
            onnx.save(model, path, save_as_external_data=model.ByteSize() > 2**31 - 2**24)
        return evaluate(paths, data, progress=progress)


def _facts(target: str, data: Dataset | None) -> dict[str, Any]:
    packages = ("convert-onnx", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")
    return {
        "target": target,
        "calibration": None if data is None else data.describe(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
