"""What a conversion starts from. Whatever can be refused is refused here, before any expensive work."""

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
    """A conversion that nothing speaks against.

    Attributes:
        source: the float model.
        existing: codes and grids of the file that was read, if it was quantized.
        recipe: with all that the call asks for.
        target: where the file will run.
        images: who sees which.
        requested: layers that the call names.
        settings: how it is done.
        checkpoint: file of a training's state; None: it leaves none.
        footprint: seconds and memory of the steps so far.
        warnings: what the caller may not have meant.
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
        model, calibration, evaluation, training, export, preprocess, settings: as `converter.convert` has them.
        recipe: its passes and what it says of images.
        target: where the file will run.
        requested: layers that the call names.
        judging: calibration images that are read beyond the recipe's limit, because they judge. Their labels must be
            classes of the model.

    Raises:
        ConvertError: anything a user can mend; the message says how.
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
    read = dataclasses.replace(recipe, limit=recipe.limit + judging)
    with footprint.step("open data"), suggesting_shape([model], export):
        images = open_data(calibration, evaluation, training, source, read, preprocess, labels_judge=judging > 0)
        checkpoint = training_file(settings.checkpoint, source, recipe, target.name, images)
    read_again = (requantized(existing),) if existing and not recipe.keeps else ()
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
        warnings=(*read_again, *images.warnings),
    )
