"""Open and check the data of a conversion before any work is done."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.data.judging import Judging
from converter.data.labels import check_labels, model_classes
from converter.data.preprocess import Preprocess
from converter.data.preprocess_checks import check_channels, questions, refuse_unused
from converter.display.words import samples
from converter.learn.held_out import hold_out
from converter.recipes.recipe import Recipe
from passes.base import Pass
from passes.errors import UsageError

__all__ = ["Images", "open_data", "require_calibration", "require_usable_data"]

_FEW = 32  # with fewer, the 8-bit ranges of a layer differ visibly from one random choice of samples to another


@dataclass(frozen=True)
class Images:
    """Images of a conversion, by their use.

    Attributes:
        calibration: All images that calibrate.
        evaluation: Images of the measurements at the end.
        training: Images for passes that train.
        learnable: Images of ``calibration`` that no pass holds out. Other passes must not see held-out samples. Else
            these images would favour the work of those passes.
        judging: Images that judge the file. No pass sees them. None: there are none.
        warnings: Likely mistakes in the data.
    """

    calibration: Dataset | None
    evaluation: Dataset | None
    training: Dataset | None
    learnable: Dataset | None
    judging: Dataset | None = None
    warnings: tuple[str, ...] = ()

    def one_at_a_time(self) -> "Images":
        """Return the same images for a model that takes one of them in a run, whatever it declares."""

        def alone(data: Dataset | None) -> Dataset | None:
            return None if data is None else data.one_at_a_time()

        return dataclasses.replace(
            self,
            calibration=alone(self.calibration),
            evaluation=alone(self.evaluation),
            training=alone(self.training),
            learnable=alone(self.learnable),
            judging=alone(self.judging),
        )

    def shown_to(self, step: Pass) -> Dataset | None:
        """Return the images that a pass may use."""
        if step.trains:
            return self.training
        return self.calibration if step.held_out else self.learnable

    def describe_calibration(self) -> dict[str, Any] | None:
        """Return `Dataset.describe` of the calibration images. None if there are none."""
        return None if self.calibration is None else self.calibration.describe()

    def describe_training(self, recipe: Recipe) -> dict[str, Any] | None:
        """Return `Dataset.describe` of the training images and the number held out. None if no pass trains."""
        for step in recipe.passes:
            if step.trains and self.training is not None:
                judge = hold_out(len(self.training), step.held_out, recipe.seed).judge
                return self.training.describe() | {"held_out": len(judge)}
        return None


def require_calibration(calibration: Any, training: Any, checkpoint: str | Path | None, recipe: Recipe) -> None:
    """Refuse a recipe that needs data if there are none, and data that the recipe does not use.

    Raises:
        UsageError: The data and the recipe do not match. The message names the recipe.
    """
    if (training is not None or checkpoint is not None) and not recipe.trains:
        raise UsageError(f"recipe {recipe.name!r} has no pass that trains; use one with a qat pass, such as int4-qat")
    if calibration is not None and recipe.keeps and not recipe.needs_calibration:
        raise UsageError(
            f"recipe {recipe.name!r} keeps the grids of the model, so `calibration=` has no effect; leave it out"
        )
    if calibration is None and training is None and recipe.needs_calibration:
        raise UsageError(
            f"recipe {recipe.name!r} needs calibration data; use `calibration=` with an .npz or a folder of images"
        )


def require_usable_data(passes: Iterable[Pass], shown_to: Callable[[Pass], Dataset | None]) -> None:
    """Refuse data that a pass cannot use.

    Args:
        passes: The passes.
        shown_to: Function that returns the data of a pass, or None.

    Raises:
        DataError: See `Pass.requires_data`.
    """
    for step in passes:
        data = shown_to(step)
        if data is not None:
            step.requires_data(data.facts)


def open_data(
    calibration: Any,
    evaluation: Any,
    training: Any,
    model: onnx.ModelProto,
    recipe: Recipe,
    given: Preprocess,
    *,
    judging: Judging | None = None,
    annotated: bool = False,
) -> Images:
    """Open the data of a conversion. All data are in a form that `load_data` takes, a Dataset, or None.

    Args:
        calibration: Calibration data. At most as many images as the recipe's limit calibrate.
        evaluation: Evaluation data. All are used. Their labels must be classes of the model.
        training: Training data. All are used. Their labels must be classes of the model. Without calibration data, the
            training images that no pass holds out are used for calibration.
        model: Model that takes the data.
        recipe: Recipe with the preprocessing. Its number of channels must be the model's.
        given: Part of the preprocessing that comes from the arguments of this call, and so must have an effect.
        annotated: Whether to keep labels of any form for a metric, see `load_data`.
        judging: Which of the calibration images judge the file. None: all of them calibrate.

    Raises:
        UsageError, DataError: See `load_data`, `refuse_unused`, `check_labels` and `require_usable_data`.
    """
    inputs, classes = input_specs(model), model_classes(model, "the model")

    def whole(data: Any) -> Dataset | None:
        """Open all of the data and check the labels."""
        if isinstance(data, Dataset):
            check_labels(data.source, data.labels, classes)
            return data
        if data is None:
            return None
        return load_data(data, inputs, preprocess=recipe.preprocess, classes=classes, annotated=annotated)

    unseen, learned = whole(evaluation), whole(training)
    data, judges = calibration, None
    if data is None and learned is not None:
        trained = [step for step in recipe.passes if step.trains]
        data, judges = _learnable(learned, recipe.seed, trained), _held_out(learned, recipe.seed, trained)
    most = recipe.limit + (0 if judging is None else judging.most)
    labels_judge = judging is not None and judging.by_labels
    used = labels_judge or recipe.trains
    checked = classes if used else None
    if isinstance(data, Dataset):
        check_labels(data.source, data.labels, checked)
        data = data.limit(most, recipe.seed)
    elif data is not None:
        data = load_data(
            data,
            inputs,
            preprocess=recipe.preprocess,
            limit=most,
            seed=recipe.seed,
            classes=checked,
            annotated=(annotated and labels_judge) or not used,  # masks and texts are in the way of nothing
        )
    few = data is not None and min(len(data), recipe.limit) < _FEW
    if data is not None and judging is not None and judges is None:
        data, judges = judging.split(data, recipe.limit, recipe.seed)
    elif data is not None:
        data = data.limit(recipe.limit, recipe.seed)
    refuse_unused(given, [each for each in (data, unseen, learned) if each is not None])
    check_channels(recipe.preprocess, inputs)
    images = dataclasses.replace(_by_use(data, unseen, learned, recipe), judging=judges)
    require_usable_data(recipe.passes, images.shown_to)
    return dataclasses.replace(images, warnings=tuple(_warnings(recipe, data, unseen, learned, few=few)))


def _by_use(data: Dataset | None, unseen: Dataset | None, learned: Dataset | None, recipe: Recipe) -> Images:
    """Divide the images among their uses. Without training images, training uses the calibration images."""
    if data is None:
        return Images(data, unseen, learned, data)
    if learned is not None:
        others = [step for step in recipe.passes if not step.trains]
        return Images(data, unseen, learned, _learnable(data, recipe.seed, others))
    return Images(data, unseen, data, _learnable(data, recipe.seed, recipe.passes))


def _learnable(data: Dataset, seed: int, passes: Iterable[Pass]) -> Dataset:
    """Return the images that none of the passes holds out."""
    rows = np.arange(len(data))
    for step in passes:
        if step.held_out:
            rows = np.intersect1d(rows, hold_out(len(data), step.held_out, seed).train)
    return data.select(rows)


def _held_out(data: Dataset, seed: int, passes: Iterable[Pass]) -> Dataset | None:
    """Return the images that some of the passes holds out. None: there are none."""
    rows = [hold_out(len(data), step.held_out, seed).judge for step in passes if step.held_out]
    return data.select(np.unique(np.concatenate(rows))) if rows else None


def _warnings(
    recipe: Recipe, data: Dataset | None, unseen: Dataset | None, learned: Dataset | None, *, few: bool
) -> Iterator[str]:
    if data is not None and learned is None and recipe.trains:
        yield f"{recipe.name} trains on {samples(len(data), data.preprocess)} that calibrate; `train` can use more"
    yield from questions([each for each in (data, learned, unseen) if each is not None])
    if data is not None and recipe.needs_calibration and few:
        yield (
            f"{data.source}: only {samples(len(data), data.preprocess)} calibrate, so accuracy may suffer; "
            f"give {_FEW} or more, best some hundreds"
        )
