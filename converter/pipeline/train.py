"""Quantization-aware training as one call: a post-training solution, then training on the grids of the file."""

import dataclasses
from pathlib import Path
from typing import Any

from converter.pipeline.convert import convert
from converter.pipeline.result import Result
from converter.recipes.builtin import find_recipe
from converter.recipes.recipe import Recipe
from passes.errors import UsageError

__all__ = ["train"]


def train(
    model: Any,
    data: Any,
    *,
    recipe: str | Path | Recipe = "int4-qat",
    checkpoint: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train a model with its quantization in place.

    The recipe's passes before `qat` give it a start: grids, and codes by GPTQ. Conv, BatchNorm and activation are one
    by then, and what is trained is what the writers put into the file, int32 biases included.

    Args:
        model: path of an .onnx file, ``FILE.py:FACTORY``, an onnx.ModelProto or a torch module.
        data: training images, in a form of `converter.data.dataset.load_data`. With labels cross-entropy is learned from,
            without them the float network's outputs. A share of them (`Qat.held_out`) chooses the best epoch.
        recipe: one with a qat pass.
        checkpoint: file in which the training keeps where it stands, so that the same call goes on after a kill; it is
            left there.
        settings: fields of the qat pass that differ from the recipe's, such as ``{"epochs": 3}``.
        options: of `converter.convert`; without ``calibration``, training images calibrate.

    Raises:
        ConvertError: anything a user can mend; the message says how.
    """
    plan = find_recipe(recipe)
    for step in plan.passes:
        names = [field.name for field in dataclasses.fields(step)]
        for name in settings or {}:
            if step.trains and name not in names:
                raise UsageError(f"training has no setting {name!r}; there are: {', '.join(names)}")
    try:
        passes = tuple(dataclasses.replace(step, **(settings or {})) if step.trains else step for step in plan.passes)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the training's {error}") from error
    place = None if checkpoint is None else Path(checkpoint)
    return convert(model, recipe=dataclasses.replace(plan, passes=passes), training=data, checkpoint=place, **options)
