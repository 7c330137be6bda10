"""What learning asks of its images, questioned when they are opened: the passes before it take minutes."""

from collections.abc import Callable, Iterable
from functools import singledispatch

from converter.data.dataset import Dataset
from passes.base import Pass
from passes.errors import DataError
from passes.weights.qat import Qat

__all__ = ["FEWEST_IMAGES", "FROM_FLOAT", "require_data", "require_learnable"]

FROM_FLOAT = "`objective='float'` (objective = 'float' in a recipe) learns from the float network"

FEWEST_IMAGES = 4
"""To learn from some and to judge on others."""


def require_learnable(passes: Iterable[Pass], shown_to: Callable[[Pass], Dataset | None]) -> None:
    """Refuse images that a pass of a recipe cannot learn from.

    Args:
        passes: of any kind; those that do not learn take anything.
        shown_to: the images that a pass sees, if any.

    Raises:
        DataError: too few to learn from some and to judge on others, labels are asked for and missing, the model's
            batch is fixed, or what is to be flipped or shifted is no image.
    """
    for step in passes:
        data = shown_to(step)
        if step.held_out and data is not None and len(data) < FEWEST_IMAGES:
            raise DataError(f"{data.source}: {step.name} needs at least {FEWEST_IMAGES} images, not {len(data)}")
        if data is not None:
            require_data(step, data)


@singledispatch
def require_data(step: Pass, data: Dataset) -> None:
    """Refuse images that a pass cannot work with; most take any. A kind of pass that does not registers its own.

    Raises:
        DataError: what is wrong with them.
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
