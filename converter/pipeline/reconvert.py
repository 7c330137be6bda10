"""Apply a suggestion: convert the model with the same recipe, except for the layers that the suggestion names."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.comparison.suggestion import Suggestion
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Evaluation, evaluate
from converter.model_io.structure import read_structure
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
    """Metadata of a file on the conversion that wrote it.

    Attributes:
        target: Target of the file.
        calibration: `Dataset.describe` of the calibration samples, without their source. None if there were none.
    """

    target: str
    calibration: dict[str, Any] | None


@dataclass(frozen=True)
class Improvement:
    """Result of an applied suggestion.

    Attributes:
        result: The new conversion.
        evaluation: Measurements of the reference, the model before and the new model.
    """

    result: Result
    evaluation: Evaluation

    @property
    def gain_db(self) -> float:
        """Gain in SQNR of the scores, in dB."""
        _, before, after = self.evaluation.models
        return (after.sqnr_db or 0.0) - (before.sqnr_db or 0.0)


def stored_origin(model: onnx.ModelProto) -> Origin | None:
    """Return the origin of a model. None if `convert` did not write it."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    if RECIPE_KEY not in facts:
        return None
    return Origin(
        facts.get("convert_onnx.target", DEFAULT_TARGET), json.loads(facts.get("convert_onnx.calibration", "null"))
    )


def require_origin(model: Path, name: str, calibration: str | None) -> Origin:
    """Return the origin of a model, which can be converted again with these calibration data.

    Raises:
        UsageError: `convert` did not write the model, or its calibration data are needed and not given.
        RecipeError: Its recipe cannot run here; see `stored_recipe`.
        DataError: ``calibration`` does not exist.
    """
    proto = read_structure(model)
    origin = stored_origin(proto)
    if origin is None:
        raise UsageError(f"{name} cannot be converted again: it holds no recipe, so `convert` did not write it")
    stored_recipe(proto, name)
    if calibration is None and origin.calibration is not None:
        raise UsageError(f"{name} has the digest of its calibration data, not the data; give them with `calibration=`")
    file = None if calibration is None else Path(calibration.partition(".py:")[0] + ".py" * (".py:" in calibration))
    if file is not None and not file.exists():
        raise DataError(f"{argument(calibration=calibration)}: no such file or folder")
    return origin


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
        UsageError: As in `require_origin`.
        ConvertError: As in `converter.convert`.
    """
    origin = require_origin(model, names[1], calibration)
    recipe = stored_recipe(read_structure(model), names[1])
    if recipe.trains:
        raise UsageError(
            f"{names[1]} was trained, and is not trained again here; use `train` with `exclude=` or `bits=`"
        )
    result = convert(
        reference,
        calibration,
        recipe=recipe,
        target=origin.target,
        exclude=suggestion.exclude,
        bits=suggestion.bits,
        progress=progress,
    )
    before = None if origin.calibration is None else origin.calibration.get("sha256")
    if before is not None and result.calibration is not None and result.calibration["sha256"] != before:
        _LOG.warning(
            f"{calibration} are not the samples that {names[1]} was calibrated on: part of the difference may "
            "come from them"
        )
    evaluation = evaluate([reference, model, result.model], data, names=names, progress=progress)
    return Improvement(result, evaluation)
