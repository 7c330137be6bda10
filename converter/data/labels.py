"""Labels against the classes a model has, before anything is run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from passes.errors import DataError

__all__ = ["Classes", "check_labels", "model_classes"]


@dataclass(frozen=True)
class Classes:
    """How many classes a model has, and what messages call the model."""

    model: str
    count: int


def model_classes(model: onnx.ModelProto, name: str) -> Classes | None:
    """The classes of a model whose first output is [n, classes] or [n, classes, 1, 1]; None where it does not say."""
    outputs = model.graph.output
    sizes = [size.dim_value for size in outputs[0].type.tensor_type.shape.dim] if outputs else []
    if len(sizes) < 2 or sizes[1] < 1 or any(size != 1 for size in sizes[2:]):
        return None
    return Classes(name, sizes[1])


def check_labels(source: str, labels: NDArray[np.int64] | None, classes: Classes | None, files: Any = None) -> None:
    """Refuse a label that the model has no class for; ``files`` name the images where they are files.

    Raises:
        DataError: names the data, the label and the first such image.
    """
    if labels is None or classes is None or not (labels >= classes.count).any():
        return
    row = int(np.argmax(labels >= classes.count))
    image = f"image {row}" if files is None else str(files[row])
    raise DataError(
        f"{source}: label {labels[row]} of {image} is out of range: {classes.model} has {classes.count} classes "
        f"(0..{classes.count - 1}); use the labels that the model was trained on"
    )
