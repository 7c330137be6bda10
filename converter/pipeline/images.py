"""Open and check the data of a conversion before any work is done."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
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
from converter.data.sources import Rows
from converter.display.words import samples
from converter.learn.held_out import hold_out
from converter.recipes.recipe import Recipe
from passes.base import Pass, Stage
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
        fitted: Images of ``calibration`` that weights may be fitted to: all that do not judge.
        learnable: Images of ``fitted`` that no pass holds out. Other passes must not see held-out samples. Else these
            images would favour the work of those passes.
        measured: Images that ranges and other statistics of the float network are measured on: ``learnable``, and those
            of ``calibration`` that judge.
        judging: Images that judge the file. None: there are none of their own. They may be part of ``calibration``.
        held_out: Whether ``judging`` is no part of ``calibration``.
        judges: Indices of the images of ``calibration`` that judge.
        warnings: Likely mistakes in the data.
    """

    calibration: Dataset | None
    evaluation: Dataset | None
    training: Dataset | None
    fitted: Dataset | None
    learnable: Dataset | None
    measured: Dataset | None
    judging: Dataset | None = None
    held_out: bool = True
    judges: Rows = field(default_factory=lambda: np.zeros(0, np.int64))
    warnings: tuple[str, ...] = ()

    @classmethod
    def all_of(cls, data: Dataset) -> "Images":
        """Return images for passes that all see the same."""
        return cls(data, None, None, data, data, data)

    def one_at_a_time(self) -> "Images":
        """Return the same images for a model that takes one of them in a run, whatever it declares."""

        def alone(data: Dataset | None) -> Dataset | None:
            return None if data is None else data.one_at_a_time()

        return dataclasses.replace(
            self,
            calibration=alone(self.calibration),
            evaluation=alone(self.evaluation),
            training=alone(self.training),
            fitted=alone(self.fitted),
            learnable=alone(self.learnable),
            measured=alone(self.measured),
            judging=alone(self.judging),
        )

    def shown_to(self, step: Pass) -> Dataset | None:
        """Return the images that a pass may use."""
        if step.trains:
            return self.training
        if step.held_out:
            return self.fitted
        return self.measured if step.stage <= Stage.RANGES else self.learnable

    def held_out_by(self, passes: Iterable[Pass], seed: int) -> "Images":
        """Return the images if only these passes hold some out, and none of them trains."""
        if self.calibration is None:
            return self
        fitted = np.setdiff1d(np.arange(len(self.calibration)), self.judges)
        learnable = fitted[_learnable(len(fitted), seed, passes)]
        return dataclasses.replace(
            self,
            learnable=self.calibration.select(learnable),
            measured=self.calibration.select(np.union1d(learnable, self.judges)),
        )

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
        rows = _learnable(len(learned), recipe.seed, trained)
        data, others = learned.select(rows), np.setdiff1d(np.arange(len(learned)), rows)
        judges = learned.select(others) if len(others) else None
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
    among = np.zeros(0, np.int64)
    if data is not None and judges is None and judging is not None and judging.among and _fits_weights(recipe):
        _, among = judging.among.rows(len(data), len(data), recipe.seed)
    refuse_unused(given, [each for each in (data, unseen, learned) if each is not None])
    check_channels(recipe.preprocess, inputs)
    images = _by_use(data, unseen, learned, recipe, among)
    images = images if judges is None else dataclasses.replace(images, judging=judges, held_out=True)
    require_usable_data(recipe.passes, images.shown_to)
    return dataclasses.replace(images, warnings=tuple(_warnings(recipe, data, unseen, learned, few=few)))


def _by_use(
    data: Dataset | None, unseen: Dataset | None, learned: Dataset | None, recipe: Recipe, judges: Rows
) -> Images:
    """Divide the images among their uses. Without training images, training uses the calibration images.

    Args:
        data: Images that calibrate.
        unseen: Images of the measurements at the end.
        learned: Training images.
        recipe: Its passes may hold out some of the images.
        judges: Indices of the images that calibrate and judge: no weight is fitted to them.
    """
    if data is None:
        return Images(None, unseen, learned, None, None, None)
    fitted = np.setdiff1d(np.arange(len(data)), judges)
    holding = [step for step in recipe.passes if learned is None or not step.trains]
    learnable = fitted[_learnable(len(fitted), recipe.seed, holding)]
    return Images(
        data,
        unseen,
        data.select(fitted) if learned is None else learned,
        data.select(fitted),
        data.select(learnable),
        data.select(np.union1d(learnable, judges)),
        data.select(judges) if len(judges) else None,
        held_out=False,
        judges=judges,
    )


def _learnable(count: int, seed: int, passes: Iterable[Pass]) -> Rows:
    """Return the indices of the images that none of the passes holds out."""
    rows = np.arange(count)
    for step in passes:
        if step.held_out:
            rows = np.intersect1d(rows, hold_out(count, step.held_out, seed).train)
    return rows


def _fits_weights(recipe: Recipe) -> bool:
    """Whether a pass fits weights to images. The values of int8 follow from the weights alone."""
    return any(step.needs_data and step.stage > Stage.RANGES for step in recipe.passes)


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
