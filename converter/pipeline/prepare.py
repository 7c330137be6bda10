"""Prepare a conversion: open and check everything before any expensive work."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import onnx

from converter.data.preprocess import Preprocess, stored_preprocess
from converter.learn.learning import require_device
from converter.learn.training_file import TrainingFile
from converter.model_io.open import ExportOptions, open_model, require_layers, suggesting_shape
from converter.pipeline.footprint import Footprint
from converter.pipeline.images import Images, open_data, require_calibration
from converter.pipeline.resume import training_file
from converter.pipeline.settings import Settings
from converter.qdq.reader import read_qdq, requantized
from converter.recipes.overrides import with_overrides
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.speed.search import require_measurable
from converter.targets.target import Target
from converter.verification.fit import require_fit, require_weight_only
from passes.ir.existing_qparams import ExistingQparams

__all__ = ["Prepared", "prepare"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Inputs of a conversion. All have passed the checks.

    Attributes:
        source: The float model.
        existing: Codes and grids of the source file, if it is quantized.
        recipe: The recipe with all overrides of the call.
        target: Target on which the file will run.
        images: Images by their use.
        requested: Layers that the call names.
        settings: Settings of the call.
        checkpoint: File for the state of a training. None: no state is written.
        footprint: Time and memory of the steps so far.
        warnings: Likely mistakes of the caller.
    """

    source: onnx.ModelProto
    existing: ExistingQparams
    recipe: Recipe
    target: Target
    images: Images
    requested: RequestedLayers
    settings: Settings
    checkpoint: TrainingFile | None
    footprint: Footprint
    warnings: tuple[str, ...] = ()

    def warn(self) -> "Prepared":
        """Log the warnings."""
        for warning in self.warnings:
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
    judging: int = 0,
) -> Prepared:
    """Open the model and the data of a conversion.

    Args:
        model, calibration, evaluation, training, export, preprocess, settings: As in `converter.convert`.
        recipe: The recipe.
        target: Target on which the file will run.
        requested: Layers that the call names.
        judging: Number of calibration images beyond the recipe's limit that judge the result. If it is not 0, the
            labels of the calibration images must be classes of the model.

    Raises:
        ConvertError: Any problem that the user can fix. The message says how.
    """
    footprint = Footprint()
    require_calibration(calibration, training, settings.checkpoint, recipe)
    require_device(recipe.passes)
    if settings.measure_speed:
        require_measurable(recipe, target)
    with footprint.step("open model"):
        source, existing = read_qdq(open_model(model, export))
    require_layers(source)
    require_fit(source, target)
    require_weight_only(source, recipe, target)
    recipe = with_overrides(recipe, stored_preprocess(source), preprocess, settings.limit, settings.seed)
    enlarged = dataclasses.replace(recipe, limit=recipe.limit + judging)
    with footprint.step("open data"), suggesting_shape([model], export):
        images = open_data(calibration, evaluation, training, source, enlarged, preprocess, labels_judge=judging > 0)
        checkpoint = training_file(settings.checkpoint, source, recipe, target.name, images)
    rounded_again = (requantized(existing),) if existing and not recipe.keeps else ()
    return Prepared(
        source=source,
        existing=existing,
        recipe=recipe,
        target=target,
        images=images,
        requested=requested or RequestedLayers((), {}),
        settings=settings,
        checkpoint=checkpoint,
        footprint=footprint,
        warnings=(*rounded_again, *images.warnings),
    )
