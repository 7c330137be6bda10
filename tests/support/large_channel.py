"""Images with one channel of large values, for which 8-bit activations are not enough, and a network for them."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.support.graphs import array
from tests.support.outlier_network import SHAPE, residual

__all__ = ["images", "network"]

LARGE = 40  # the first channel of the images, over the others


def images(seed: int = 0) -> NDArray[np.float32]:
    """Return 32 images."""
    values = array(32, *SHAPE, seed=seed)
    values[:, 0] *= LARGE
    return values


def network() -> onnx.ModelProto:
    """A network whose input has one channel of large values, as activations of transformers have.

    The weights of the layer that reads it are 1/40 of whole numbers up to 127, so that 8 bits hold them exactly.
    """
    model = residual()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            values = np.rint(LARGE * numpy_helper.to_array(tensor)).clip(-127, 127)
            values[:, 0] = np.rint(values[:, 0] / LARGE)
            values[:, 1, 0, 0] = 127
            tensor.CopyFrom(numpy_helper.from_array((values / LARGE).astype(np.float32), "w1"))
    return model
