"""Quantization-aware training in one call: a post-training solution, then training on the grids of the file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.data.preprocess import Preprocess
from converter.model_io.open import ExportOptions
from converter.pipeline.convert import convert
from converter.pipeline.result import Result
from converter.pipeline.settings import Settings
from converter.recipes.builtin import find_recipe
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress, no_progress
from converter.targets.catalog import DEFAULT_TARGET
from passes.errors import UsageError

__all__ = ["train"]


def train(
    model: Any,
    data: Any,
    *,
    recipe: str | Path | Recipe = "int4-qat",
    qat: Mapping[str, Any] | None = None,
    calibration: Any = None,
    target: str = DEFAULT_TARGET,
    exclude: Sequence[str] = (),
    bits: Mapping[str, int] | None = None,
    evaluation: Any = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Result:
    """Train a model with its quantization in place.

    The recipe's passes before `qat` give the start of the training: grids, and codes by GPTQ. By then, Conv, BatchNorm
    and activation are one layer. The training uses exactly the values that the writers put into the file, int32 biases
    included.

    Args:
        model: Path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        data: Training images, in a form of `converter.load_data`. With labels, the training minimizes cross-entropy.
            Without labels, it learns the outputs of the float network. A share of the images chooses the best epoch.
        recipe: Recipe with a qat pass.
        qat: Fields of the qat pass that differ from the recipe's, such as ``{"epochs": 3}``.
        calibration: Images for the passes before the training. Without them, training images are used.
        target, exclude, bits, evaluation, export, preprocess, progress: As in `converter.convert`.
        settings: As in `converter.convert`. The file `Settings.checkpoint` stays after the training.

    Raises:
        ConvertError: Any problem that the user can fix. The message says how.
    """
    return convert(
        model,
        calibration,
        recipe=_with_fields(find_recipe(recipe), qat or {}),
        target=target,
        exclude=exclude,
        bits=bits,
        evaluation=evaluation,
        training=data,
        export=export,
        preprocess=preprocess,
        settings=settings,
        progress=progress,
    )


def _with_fields(recipe: Recipe, fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe with these fields of the pass that trains."""
    for step in recipe.passes:
        names = [field.name for field in dataclasses.fields(step)]
        for name in fields:
            if step.trains and name not in names:
                raise UsageError(f"{step.name} has no field {name!r}; there are: {', '.join(names)}")
    try:
        passes = tuple(dataclasses.replace(step, **fields) if step.trains else step for step in recipe.passes)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the training's {error}") from error
    return dataclasses.replace(recipe, passes=passes)
