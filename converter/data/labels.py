"""Checks labels against the classes of a model, before anything runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from passes.errors import DataError

__all__ = ["Classes", "check_labels", "model_classes"]


@dataclass(frozen=True)
class Classes:
    """Number of classes of a model, and the model's name in messages."""

    model: str
    count: int


def model_classes(model: onnx.ModelProto, name: str) -> Classes | None:
    """Classes of a model whose first output is [n, classes] or [n, classes, 1, 1]. None if the shape is not known."""
    outputs = model.graph.output
    sizes = [size.dim_value for size in outputs[0].type.tensor_type.shape.dim] if outputs else []
    if len(sizes) < 2 or sizes[1] < 1 or any(size != 1 for size in sizes[2:]):
        return None
    return Classes(name, sizes[1])


def check_labels(source: str, labels: NDArray[np.int64] | None, classes: Classes | None, files: Any = None) -> None:
    """Refuse a label for which the model has no class.

    Args:
        source: Name of the data.
        labels: The labels, or None.
        classes: The model's classes, or None if they are not known.
        files: The image files, if the images are files.

    Raises:
        DataError: A label is too large. The message names the data, the label and the first image that has one.
    """
    if labels is None or classes is None or not (labels >= classes.count).any():
        return
    row = int(np.argmax(labels >= classes.count))
    image = f"sample {row}" if files is None else str(files[row])
    raise DataError(
        f"{source}: label {labels[row]} of {image} is out of range: {classes.model} has {classes.count} classes "
        f"(0..{classes.count - 1}); use the labels that the model was trained on"
    )
