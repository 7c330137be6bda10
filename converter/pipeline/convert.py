"""Convert a model to a quantized model: prepare -> [statistics -> pass -> check]* -> write -> evaluate."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from converter.cache.folder import shrink
from converter.data.preprocess import Preprocess
from converter.engine.workers import Workers, opened
from converter.model_io.open import ExportOptions
from converter.pipeline.branches import convert_branches
from converter.pipeline.channel_shares import with_channels_chosen
from converter.pipeline.finish import Written, write_file
from converter.pipeline.fixed_sums import fixed_sums
from converter.pipeline.kept_outputs import KeptOutputs
from converter.pipeline.min_sqnr import advice, fault, reach, require_judgeable
from converter.pipeline.prepare import JUDGING, Prepared, prepare
from converter.pipeline.result import Result
from converter.pipeline.resume import own_checkpoint
from converter.pipeline.run_pass import PassContext, run_pass
from converter.pipeline.settings import Settings
from converter.recipes.builtin import find_recipe, learning_on
from converter.recipes.overrides import with_channels, with_layers
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.runtime.session import Progress, no_progress
from converter.speed.search import Speed, find_slow_layers, leaving
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.arguments import require_type
from passes.base import Pass
from passes.errors import UsageError
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.ir.selectors import placed
from passes.report import PassReport

__all__ = ["convert", "quantize", "run_passes"]

_AGAIN = "learning gained nothing, so the other passes ran again on all images"
_LOG = logging.getLogger(__name__)


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
    workers: Workers = Workers(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Result:
    """Quantize a model.

    Args:
        model: Path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        calibration: .npz, image folder, ``FILE.py:CALLABLE``, or arrays. See `converter.load_data`.
        recipe: Name, TOML file or `Recipe`. An .onnx file stands for the recipe in its metadata.
        target: Name of the target on which the file will run. See `converter.find_target`.
        exclude: Layers that stay in float, in addition to those that the recipe excludes: names, patterns such as
            "blocks.?.*" and "re:...", "op:Gemm", "after:NODE" or "from:NODE..to:NODE". See `passes.ir.selectors`.
        bits: Weight bits by layer name or by such a selector. They override the recipe's.
        evaluation: Data to measure the result on, in the same forms as ``calibration``.
        training: Data for a pass that trains, in the same forms. Such a pass uses the calibration data if this is not
            given. If only this is given, its images are used for calibration too.
        export: Weights and input shape of a torch model.
        preprocess: Preprocessing of uint8 data. It overrides the recipe's, which overrides the model's metadata.
        settings: Images, seed, device and memory.
        workers: Processes that measure the statistics of activations, each on some of the samples. Layers follow one
            another, and are solved in this process.
        progress: Callback for progress.

    Raises:
        ConvertError: Any problem that the user can fix. The message says how.
    """
    require_type("settings", settings, Settings, "converter.Settings(...)")
    plan = with_layers(learning_on(find_recipe(recipe), settings.device), exclude, bits)
    plan = with_channels(plan, settings.channel_share)
    require_judgeable(settings.min_sqnr, plan, has_data=calibration is not None or training is not None)
    if workers.several and not plan.needs_calibration:
        raise UsageError(
            f"{workers.given} has no effect: recipe {plan.name!r} measures no statistics of activations; leave it out"
        )
    with own_checkpoint(settings.checkpoint), fixed_sums(settings.deterministic, learns=plan.learns):
        job = prepare(
            model,
            calibration,
            plan,
            find_target(target),
            evaluation=evaluation,
            training=training,
            requested=RequestedLayers(exclude, bits or {}, plan.keeps, plan.solver),
            export=export,
            preprocess=preprocess,
            settings=settings,
            judging=JUDGING,
            progress=progress,
        )
        with opened(workers) as engine:
            result = quantize(dataclasses.replace(job.warn(), engine=engine), progress).deployed(settings)
    if settings.cache is not None:
        shrink(Path(settings.cache))
    return result


def quantize(job: Prepared, progress: Progress) -> Result:
    """Run the passes of a recipe, write the file and measure it."""
    job = with_channels_chosen(job, progress)
    footprint, speed = job.footprint, None
    if job.settings.measure_speed:
        with footprint.step("measure speed"), job.requested.refused():
            speed = _measure_speed(job, progress)
        job = dataclasses.replace(job, recipe=leaving(job.recipe, speed))

    written, mending = _write(job, speed, progress), None
    if job.settings.min_sqnr is not None:
        written, job, mending = reach(written, job, lambda changed: _write(changed, speed, progress), progress)
    if job.warns:
        _warn(written, job, progress)
    metrics = job.evaluation(written.model, job.recipe.name, progress)
    timed = metrics is not None and metrics.latencies is not None
    return Result(
        model=written.model,
        reference=job.source,
        given=job.given,
        recipe=job.recipe,
        target=job.target.name,
        layers=written.layers,
        passes=written.reports,
        metrics=metrics,
        fidelity=written.fidelity,
        latency=job.latency(written.model) if job.warns and not timed else None,
        mending=mending,
        calibration=job.images.describe_calibration(),
        training=job.images.describe_training(job.recipe),
        seconds=footprint.seconds,
        steps=footprint.steps,
        speed=speed,
    )


def run_passes(job: Prepared, progress: Progress) -> tuple[Model, list[PassReport]]:
    """Run the passes of a recipe on a new model. Return the model and their reports.

    If learned rounding gains nothing (`Pass.gives_back`), the other passes run again on all images: those that it holds
    out are then worth more to them, and the file is that of the recipe without it. A recipe that also trains never runs
    again, since the training starts from its codes and has changed them.
    """
    work, reports = _run_passes(job, progress)
    learning = [step for step in job.recipe.passes if step.gives_back]
    if not learning or job.recipe.trains or any(_gained(report, learning) for report in reports):
        return work, reports
    others = tuple(step for step in job.recipe.passes if step not in learning)
    recipe = dataclasses.replace(job.recipe, passes=others)
    again = dataclasses.replace(job, recipe=recipe, images=job.images.held_out_by(others, recipe.seed))
    work, found = _run_passes(again, progress)
    remaining = iter(found)
    return work, [
        dataclasses.replace(report, notes=(*report.notes, _AGAIN)) if step in learning else next(remaining)
        for step, report in zip(job.recipe.passes, reports, strict=True)
    ]


def _gained(report: PassReport, learning: Sequence[Pass]) -> bool:
    return bool(report.changed) and any(report.name == step.name for step in learning)


def _run_passes(job: Prepared, progress: Progress) -> tuple[Model, list[PassReport]]:
    work = Model(import_graph(job.source), job.target.rules, existing_qparams=job.existing)
    settings = job.settings
    context = PassContext(
        job.images,
        settings.memory_budget,
        job.recipe,
        progress,
        job.checkpoint,
        settings.metric,
        job.step_cache(),
        job.engine,
        job.target.storage(job.recipe.storage),
    )
    reports, outputs = [], KeptOutputs(job)
    passes, solver = job.recipe.passes, job.recipe.solver
    settled = max((index for index, step in enumerate(passes) if step.settles_layers), default=-1)
    for index, step in enumerate(passes):
        if index == settled + 1 and solver is not None:
            known = [*work.layers(), *work.recurrent_layers()]
            work.selected |= placed(solver.layer_bits, work.graph, known)
        with job.footprint.step(step.name), job.requested.before(step, work), outputs.over(step, work.graph):
            reports.append(run_pass(step, work, context))
    return work, reports


def _write(job: Prepared, speed: Speed | None, progress: Progress) -> Written:
    """Run the passes of a recipe and write the file in memory."""
    work, reports = run_passes(job, progress)

    def convert_branch(model: onnx.ModelProto, calibration: Any, recipe: Recipe) -> Result:
        settings = Settings(memory_budget=job.settings.memory_budget)
        inner = prepare(model, calibration, recipe, job.target, settings=settings, progress=progress)
        return quantize(dataclasses.replace(inner, warns=False), progress)

    return write_file(work, reports, job, speed, convert_branches(work, job, convert_branch))


def _warn(written: Written, job: Prepared, progress: Progress) -> None:
    """Warn of a file that is far from float, and say what it comes from."""
    fidelity = written.fidelity
    if fidelity is None:
        return
    if job.target.provider == "cpu" and job.target.rules.pair_sum is None and fidelity.saturation:
        _LOG.warning(f"{fidelity.saturation}; `target='cpu-avx2'` gives a file for both")
    if fidelity.judges == "noise" or not fidelity.warning:
        return
    parts = (fidelity.warning, fault(written, job, progress), advice(job.recipe))
    _LOG.warning("; ".join(filter(None, parts)))


def _measure_speed(job: Prepared, progress: Progress) -> Speed:
    """Find the layers that this machine runs faster with float activations."""
    assert job.images.calibration is not None  # a recipe that quantizes activations needs images
    sample = next(job.images.calibration.batches(1))
    return find_slow_layers(job.source, job.recipe, job.target, sample, progress)
