"""Prepare a conversion: open and check everything before any expensive work."""

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from converter.cache.source_digest import source_digest
from converter.cache.steps import NO_CACHE, StepCache
from converter.data.any_size import has_any_size, require_any_size
from converter.data.dataset import Batch
from converter.data.embedding import Embedded
from converter.data.inputs import input_specs
from converter.data.judging import Judging
from converter.data.labels import model_classes
from converter.data.preprocess import Preprocess, stored_preprocess
from converter.data.variety import little_variety
from converter.engine.engine import Engine, InProcess
from converter.evaluation.evaluate import Evaluation, evaluate_pair, require_metric
from converter.evaluation.same_function import Original
from converter.learn.learnable import require_learnable
from converter.learn.learning import require_device
from converter.learn.training_file import TrainingFile
from converter.metrics.registry import find_metric
from converter.model_io.open import ExportOptions, open_unjudged, require_layers, suggesting_shape
from converter.model_io.operator_libraries import libraries
from converter.model_io.parity import RANDOM
from converter.pipeline.footprint import Footprint
from converter.pipeline.front import Front, open_front
from converter.pipeline.given import Given, given_model
from converter.pipeline.images import Images, open_data, require_calibration
from converter.pipeline.result import numeric_versions, versions
from converter.pipeline.resume import training_file
from converter.pipeline.run_pass import require_runnable
from converter.pipeline.settings import Settings
from converter.pipeline.trial_run import Judges
from converter.pipeline.verdict.timing import time_pair
from converter.qdq.class_index import require_scores
from converter.qdq.floats import float_model
from converter.qdq.reader import read_qdq, requantized
from converter.recipes.overrides import with_aim, with_overrides
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.runtime.few_samples import Feeds, noise_feeds, real_feeds
from converter.runtime.latency import Latencies
from converter.runtime.runner import Runner
from converter.runtime.session import Progress, no_progress
from converter.runtime.stacking import samples_alone
from converter.speed.search import require_measurable
from converter.targets.target import Target
from converter.verification.fit import require_fit, require_weight_only
from passes.arguments import require_type
from passes.errors import ModelError, UsageError
from passes.ir.existing_qparams import ExistingQparams

__all__ = ["JUDGING", "Prepared", "prepare"]

JUDGING = Judging(most=8, share=16, fewest=64, among=Judging(most=8, share=8, fewest=16))
"""Samples that judge a file before it gets its name."""

_CHECKED = 2  # samples on which a rewritten model must agree with the model as given

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Inputs of a conversion. All have passed the checks.

    Attributes:
        source: The float model, at a recent opset.
        given: Model that the caller gave. Size and speed are measured against it.
        reference: Model that accuracy is measured against: the one that the caller gave. If it is quantized already,
            its dequantized form, which is `source`.
        existing: Codes and grids of the source file, if it is quantized.
        recipe: The recipe with all overrides of the call.
        target: Target on which the file will run.
        images: Images by their use.
        embedded: The preprocessing inside of the file, if it is there. Then `source` and `reference` take images too.
        float_form: Model that a rewritten float graph must compute the same as. None: `reference`.
        timed: Model that the file's speed is measured against, on the file's own inputs. None: the given one.
        requested: Layers that the call names.
        settings: Settings of the call.
        checkpoint: File for the state of a training. None: no state is written.
        footprint: Time and memory of the steps so far.
        warnings: Likely mistakes of the caller.
        warns: Whether there are warnings of a file that is far from float. There are none for a branch of an If, as the
            model around it is tried as a whole, and for the attempts of a search.
        engine: Where statistics are measured.
    """

    source: onnx.ModelProto
    given: Given
    reference: Path | onnx.ModelProto
    existing: ExistingQparams
    recipe: Recipe
    target: Target
    images: Images
    embedded: Embedded | None
    float_form: onnx.ModelProto | None
    timed: onnx.ModelProto | None
    requested: RequestedLayers
    settings: Settings
    checkpoint: TrainingFile | None
    footprint: Footprint
    warnings: tuple[str, ...] = ()
    warns: bool = True
    engine: Engine = InProcess()  # noqa: RUF009  (it has no state)

    def samples(self, count: int) -> list[Feeds]:
        """Return inputs for a few runs: real samples, or one of noise if there are none and all sizes are known.

        Samples that did not calibrate come first.
        """
        real = real_feeds(self.images.judging or self.images.calibration or self.images.evaluation, count)
        noise = None if real else noise_feeds(input_specs(self.source))
        return real if noise is None else [noise]

    @property
    def samples_are(self) -> Judges:
        """What `samples` returns."""
        if self.images.judging is not None:
            return "held out" if self.images.held_out else "ranges"
        if self.images.calibration is not None:
            return "calibration"
        return "noise" if self.images.evaluation is None else "held out"

    def step_cache(self) -> StepCache:
        """Return where the steps of this conversion are kept."""
        if self.settings.cache is None:
            return NO_CACHE
        facts = {
            "source": source_digest(),
            "versions": versions() | numeric_versions(),
            "custom_ops": [hashlib.sha256(Path(library).read_bytes()).hexdigest() for library in libraries()],
            "deterministic": self.settings.deterministic,
        }
        return StepCache(Path(self.settings.cache), facts)

    def latency(self, quantized: onnx.ModelProto) -> Latencies | None:
        """Time the given model and the file, if the target's kernels are this machine's.

        Only if the settings ask for it, or there are evaluation data, which ask for all measurements.
        """
        data = self.images.calibration or self.images.evaluation
        wanted = self.settings.timing or self.images.evaluation is not None
        if not wanted or not self.target.cpu_kernels:
            return None
        if data is None:
            noise = noise_feeds(input_specs(self.source))
            sample = None if noise is None else Batch(noise, None, whole=True)
        else:
            sample = next(iter(data.batches(1)))
        with self.footprint.step("time"):
            return None if sample is None else time_pair(self.timed or self.given.model, quantized, sample)

    def evaluation(self, quantized: onnx.ModelProto, name: str, progress: Progress) -> Evaluation | None:
        """Measure the file on the evaluation data, if there are any.

        Latencies are measured too, unless the given model is quantized: then `reference` is not what it is timed
        against.
        """
        data, metric = self.images.evaluation, self.settings.metric
        if data is None:
            return None
        with self.footprint.step("evaluate"):
            timed = not self.given.quantized
            return evaluate_pair(self.reference, quantized, data, name, progress, metric, latency=timed)

    def original(self, graph: gs.Graph | None = None) -> Original:
        """Return what rewritten float graphs must compute: outputs of a float graph on a few samples.

        Args:
            graph: The float graph. None: `float_form`, or else `reference`.
        """
        given = self.reference if self.float_form is None else self.float_form
        return Original(given if graph is None else float_model(graph), self.samples(_CHECKED), "the model")

    def warn(self) -> "Prepared":
        """Log the warnings, and what the samples that calibrate lack."""
        data = self.images.calibration
        wanted = data is not None and self.recipe.needs_calibration
        lacking = little_variety(data, model_classes(self.source, "the model")) if data is not None and wanted else ()
        for warning in (*self.warnings, *lacking):
            _LOG.warning(warning)
        return self


def prepare(
    model: Any,
    calibration: Any,
    recipe: Recipe,
    target: Target,
    *,
    evaluation: Any = None,
    training: Any = None,
    requested: RequestedLayers | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    judging: Judging | None = None,
    progress: Progress = no_progress,
) -> Prepared:
    """Open the model and the data of a conversion.

    Args:
        model, calibration, evaluation, training, export, preprocess, settings: As in `converter.convert`.
        recipe: The recipe.
        target: Target on which the file will run.
        requested: Layers that the call names.
        judging: Which of the calibration images judge the result. None: all of them calibrate.
        progress: Callback for progress.

    Raises:
        ConvertError: Any problem that the user can fix. The message says how.
    """
    footprint = Footprint()
    require_type("preprocess", preprocess, Preprocess, "converter.Preprocess(...)")
    if not callable(progress):
        raise UsageError(f"`progress=` is of type {type(progress).__name__}; give a function")
    require_calibration(calibration, training, settings.checkpoint, recipe)
    require_runnable(recipe.passes)
    require_device(recipe.passes)
    if settings.metric is not None:
        if evaluation is None and not (judging and judging.by_labels) and not recipe.trains:
            raise UsageError("`metric=` would measure nothing; give `evaluation=` or a budget as well")
        find_metric(settings.metric)  # refused before the work starts
    if settings.measure_speed:
        require_measurable(recipe, target)
    with footprint.step("open model"):
        opened, exported = open_unjudged(model, export, progress)
        if has_any_size(opened):
            raise ModelError("the file resizes its images inside; convert the float model that it was made from")
        source, existing = read_qdq(opened)
    require_layers(source, recurrent=recipe.takes_recurrent)
    if settings.class_index:
        require_scores(source)
    require_fit(source, target)
    require_weight_only(source, recipe, target)
    require_learnable(source, recipe, target, requested)
    recipe = with_overrides(recipe, stored_preprocess(source), preprocess, settings.limit, settings.seed)
    recipe = with_aim(recipe, settings.min_sqnr)
    if settings.embed_resize:
        require_any_size(recipe.preprocess, settings.embed_preprocess, fixed=target.static_shapes)
    front = open_front(opened, source, recipe, preprocess, settings.embed_preprocess, quantized=bool(existing))
    source, recipe = front.source, front.recipe
    with footprint.step("open data"), suggesting_shape([model], export):
        images = open_data(
            calibration,
            evaluation,
            training,
            source,
            recipe,
            preprocess,
            judging=judging,
            annotated=settings.metric is not None,
        )
        checkpoint = training_file(settings.checkpoint, source, recipe, target.name, images)
    rounded_again = (requantized(existing),) if existing and not recipe.keeps else ()
    given = given_model(model, opened, quantized=bool(existing))
    job = Prepared(
        source=source,
        given=given,
        reference=front.reference or (source if existing else given.model),
        existing=existing,
        recipe=recipe,
        target=target,
        images=images,
        embedded=front.embedded,
        float_form=front.float_form,
        timed=front.timed,
        requested=requested or RequestedLayers((), {}),
        settings=settings,
        checkpoint=checkpoint,
        footprint=footprint,
        warnings=(*rounded_again, *images.warnings),
    )
    with footprint.step("check model"):
        if exported is not None:
            data = images.calibration or images.evaluation
            runs, kind = ([], RANDOM) if data is None else data.first_runs()
            exported.judged([front.floats(run) for run in runs], kind)
        job = _checked(given.model, opened, job, _name(model), front)
        by_labels = job.images.judging if judging is not None and judging.by_labels else None
        labelled = job.images.evaluation or by_labels or job.images.training
        if settings.metric is not None and labelled is not None:
            require_metric(job.reference, labelled, settings.metric)
        return job


def _checked(
    given: Path | onnx.ModelProto, opened: onnx.ModelProto, job: Prepared, name: str, front: Front
) -> Prepared:
    """Require that reading the model did not change what it computes. Find out whether samples can run together.

    Raises:
        ModelError: Reading changed it, or the float model itself does not run.
    """
    try:
        before = Original(given, [front.floats(feeds) for feeds in job.samples(_CHECKED)], name)
    except ModelError:
        if job.existing:  # a quantized file may be for another runtime; here its dequantized form runs
            return job
        raise
    if given is not opened:
        before.require(opened, "reading it at a newer opset")
    data = job.images.calibration or job.images.evaluation
    runner = before.runner if front.reference is None else Runner(front.reference, name)
    if data is None or samples_alone(data, runner) is data:
        return job
    note = f"{name} computes something else for several samples in one run, so it runs one at a time"
    return dataclasses.replace(job, images=job.images.one_at_a_time(), warnings=(*job.warnings, note))


def _name(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else "the model"
