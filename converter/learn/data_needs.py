"""Requirements of learning passes on images. They are checked early, as the passes before them take minutes."""

from collections.abc import Callable, Iterable
from functools import singledispatch

from converter.data.dataset import Dataset
from passes.base import Pass
from passes.errors import DataError
from passes.weights.qat import Qat

__all__ = ["FEWEST_IMAGES", "FROM_FLOAT", "require_data", "require_learnable"]

FROM_FLOAT = "`objective='float'` (objective = 'float' in a recipe) learns from the float network"

FEWEST_IMAGES = 4
"""Least number of images, to learn from some and to judge on others."""


def require_learnable(passes: Iterable[Pass], shown_to: Callable[[Pass], Dataset | None]) -> None:
    """Refuse images that a pass of a recipe cannot learn from.

    Args:
        passes: Passes of any kind. Those that do not learn have no requirements.
        shown_to: Function that returns the images of a pass, or None.

    Raises:
        DataError: There are too few images to learn from some and to judge on others, required labels are missing, the
            model's batch is fixed, or flip or shift is set and no input is an image.
    """
    for step in passes:
        data = shown_to(step)
        if step.held_out and data is not None and len(data) < FEWEST_IMAGES:
            raise DataError(f"{data.source}: {step.name} needs at least {FEWEST_IMAGES} images, not {len(data)}")
        if data is not None:
            require_data(step, data)


@singledispatch
def require_data(step: Pass, data: Dataset) -> None:
    """Refuse images that a pass cannot use. Most passes can use any. Other kinds of pass register their own function.

    Raises:
        DataError: The pass cannot use the images. The message says why.
    """


@require_data.register
def _require_training_data(step: Qat, data: Dataset) -> None:
    if step.objective == "labels" and data.labels is None:
        raise DataError(f"{data.source} has no labels; {FROM_FLOAT}")
    if data.static_batch is not None:
        raise DataError(
            f"the model's batch is fixed to {data.static_batch}, and training takes batches of its own; export it with "
            "a dynamic batch"
        )
    if (step.flip or step.shift) and not any(len(spec.shape) == 4 for spec in data.inputs):
        raise DataError("`flip=` and `shift=` are for images, and no input of the model has 4 axes")
