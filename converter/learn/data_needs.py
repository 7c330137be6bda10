"""What learning asks of its images, questioned when they are opened: the passes before it take minutes."""

from collections.abc import Iterable

from converter.data import Dataset
from passes.errors import DataError
from passes.learned_rounding import LearnedRounding
from passes.qat import Qat

__all__ = ["FEWEST_IMAGES", "FROM_FLOAT", "require_data", "require_images"]

FROM_FLOAT = "--objective float (objective = 'float' in a recipe) learns from the float network"

FEWEST_IMAGES = 4
"""To learn from some and to judge on others."""


def require_images(passes: Iterable[object], data: Dataset) -> None:
    """`require_data` for those of a recipe's passes that learn."""
    for step in passes:
        if isinstance(step, LearnedRounding | Qat):
            require_data(step, data)


def require_data(step: LearnedRounding | Qat, data: Dataset) -> None:
    """Refuse images that the pass cannot learn from.

    Raises:
        DataError: too few to learn from some and to judge on others, labels are asked for and missing, the model's
            batch is fixed, or what is to be flipped or shifted is no image.
    """
    if len(data) < FEWEST_IMAGES:
        raise DataError(f"{data.source}: {step.name} needs at least {FEWEST_IMAGES} images, not {len(data)}")
    if not isinstance(step, Qat):
        return
    if step.objective == "labels" and data.labels is None:
        raise DataError(f"{data.source} has no labels; {FROM_FLOAT}")
    if data.static_batch is not None:
        raise DataError(
            f"the model's batch is fixed to {data.static_batch}, and training takes batches of its own; export it with "
            "a dynamic batch"
        )
    if (step.flip or step.shift) and not any(len(spec.shape) == 4 for spec in data.inputs):
        raise DataError("--flip and --shift are for images, and no input of the model has 4 axes")
