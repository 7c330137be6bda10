"""A suggestion carried out: the model converted again as it was, but for the layers that the suggestion names."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.comparison.suggestion import Suggestion
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Evaluation, evaluate
from converter.model_io.load import read_onnx
from converter.pipeline.convert import convert
from converter.pipeline.result import Result
from converter.recipes.builtin import RECIPE_KEY, stored_recipe
from converter.runtime.session import Progress, no_progress
from converter.targets.catalog import DEFAULT_TARGET
from passes.errors import DataError, UsageError, argument

__all__ = ["Improvement", "Origin", "apply_suggestion", "require_origin", "stored_origin"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a file's metadata say of the conversion that wrote it.

    target       it was written for
    calibration  what `Dataset.describe` said of its images; None where there were none
    """

    target: str
    calibration: dict[str, Any] | None

    @property
    def source(self) -> str | None:
        """Where the calibration images were, as the user named it."""
        return None if self.calibration is None else str(self.calibration["source"])


@dataclass(frozen=True)
class Improvement:
    """The new conversion, and the reference, the model before and the new one measured side by side."""

    result: Result
    evaluation: Evaluation

    @property
    def gain_db(self) -> float:
        """What the scores gained."""
        _, before, after = self.evaluation.models
        return (after.sqnr_db or 0.0) - (before.sqnr_db or 0.0)


def stored_origin(model: onnx.ModelProto) -> Origin | None:
    """Where a model comes from; None if `convert` did not write it."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    if RECIPE_KEY not in facts:
        return None
    return Origin(
        facts.get("convert_onnx.target", DEFAULT_TARGET), json.loads(facts.get("convert_onnx.calibration", "null"))
    )


def require_origin(model: Path, name: str, calibration: str | None) -> tuple[Origin, str | None]:
    """Where a model comes from, and the data to calibrate on again: those given, or those it was calibrated on.

    Raises:
        UsageError: `convert` did not write the model, or its calibration data are not where they were.
        RecipeError: its recipe cannot be run here; see `stored_recipe`.
        DataError: ``calibration`` is not there.
    """
    proto = read_onnx(model)
    found = stored_origin(proto)
    if found is None:
        raise UsageError(f"{name} cannot be converted again: it holds no recipe, so `convert` did not write it")
    stored_recipe(proto, name)
    data = calibration or found.source
    if data is None or Path(data.partition(".py:")[0] + ".py" * (".py:" in data)).exists():
        return found, data
    if calibration is None:
        raise UsageError(f"{name} was calibrated on {data}, which is not here; name the data by `calibration=`")
    raise DataError(f"{argument(calibration=data)}: no such file or folder")


def apply_suggestion(
    reference: Path,
    model: Path,
    suggestion: Suggestion,
    data: Dataset,
    calibration: str | None = None,
    *,
    names: tuple[str, str, str] = ("float", "before", "after"),
    progress: Progress = no_progress,
) -> Improvement:
    """Convert ``reference`` with the recipe in ``model`` and the suggestion, and measure all three on ``data``.

    Raises:
        UsageError: as `require_origin`.
        ConvertError: as `converter.convert`.
    """
    found, images = require_origin(model, names[1], calibration)
    recipe = stored_recipe(read_onnx(model), names[1])
    if recipe.trains:
        raise UsageError(
            f"{names[1]} was trained, which is not done again here; use `train` with `exclude=` or `bits=`"
        )
    result = convert(
        reference,
        images,
        recipe=recipe,
        target=found.target,
        exclude=suggestion.exclude,
        bits=suggestion.bits,
        progress=progress,
    )
    before = None if found.calibration is None else found.calibration.get("sha256")
    if before is not None and result.calibration is not None and result.calibration["sha256"] != before:
        _LOG.warning(
            f"{images} are not the images that {names[1]} was calibrated on: part of the difference may come from them"
        )
    evaluation = evaluate([reference, model, result.model], data, names=names, progress=progress)
    return Improvement(result, evaluation)
