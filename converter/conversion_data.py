"""The data of a conversion: opened, and questioned, before any work is done."""

from collections.abc import Callable, Iterator
from typing import Any

import onnx

from converter.data import Dataset, Preprocess, input_specs, load_data
from converter.labels import check_labels, model_classes
from converter.preprocess_use import check_channels, refuse_unused, unscaled
from converter.recipe import Recipe
from passes.errors import UsageError

__all__ = ["open_data", "require_calibration"]

_FEW_IMAGES = 32  # below it the 8-bit ranges of a layer differ visibly from one draw of images to the next


def require_calibration(calibration: Any, recipe: Recipe) -> None:
    """Refuse a recipe that looks at data where there are none.

    Raises:
        UsageError: names the recipe.
    """
    if calibration is None and recipe.needs_calibration:
        raise UsageError(f"recipe {recipe.name!r} needs calibration data; use --calibration with images or an .npz")


def open_data(
    calibration: Any,
    evaluation: Any,
    model: onnx.ModelProto,
    recipe: Recipe,
    given: Preprocess,
    warn: Callable[[str], None],
) -> tuple[Dataset | None, Dataset | None]:
    """Calibration and evaluation data, each in a form that `load_data` takes, a Dataset, or None.

    Args:
        calibration: as much of it as the recipe's limit is used.
        evaluation: all of it is used; its labels must be classes of the model.
        model: what the data are for.
        recipe: its preprocessing is used, and its channels must be the model's.
        given: the part of that preprocessing that was asked for in this call, and so must do something.
        warn: called with what may not have been meant.

    Raises:
        UsageError, DataError: see `load_data`, `refuse_unused` and `check_labels`.
    """
    inputs, classes = input_specs(model), model_classes(model, "the model")
    data, unseen = calibration, evaluation
    if isinstance(data, Dataset):
        data = data.limit(recipe.limit, recipe.seed)
    elif data is not None:
        data = load_data(data, inputs, preprocess=recipe.preprocess, limit=recipe.limit, seed=recipe.seed)
    if isinstance(unseen, Dataset):
        check_labels(unseen.source, unseen.labels, classes)
    elif unseen is not None:
        unseen = load_data(unseen, inputs, preprocess=recipe.preprocess, classes=classes)
    refuse_unused(given, [found for found in (data, unseen) if found is not None])
    check_channels(recipe.preprocess, inputs)
    for warning in _warnings(recipe, data, unseen):
        warn(warning)
    return data, unseen


def _warnings(recipe: Recipe, data: Dataset | None, unseen: Dataset | None) -> Iterator[str]:
    yield from [text for found in (data, unseen) if found is not None and (text := unscaled(found))][:1]
    if data is not None and recipe.needs_calibration and len(data) < _FEW_IMAGES:
        yield (
            f"{data.source}: {len(data)} images are few to calibrate on, and accuracy may suffer; "
            f"give {_FEW_IMAGES} or more, best some hundreds"
        )
