"""What the whole network makes of its held-out images, so that blocks that gain alone cannot make it worse."""

from collections.abc import Mapping

import numpy as np

from converter.data.dataset import Dataset
from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from converter.runtime.session import open_session
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.numerics.error import decibel
from passes.numerics.grid import Floats

__all__ = ["Snapshot", "network_db"]

_BATCH = 16


class Snapshot:
    """The quantized layers of a model as they are, to be put back."""

    def __init__(self, model: Model, layers: Mapping[str, Linear]) -> None:
        self.held: dict[str, tuple[Linear, Quantized, Floats, Floats | None]] = {
            name: (layer, model.quantized[name], model.weight(layer), model.bias(layer))
            for name, layer in layers.items()
        }

    def restore(self, model: Model) -> None:
        """Put the layers back."""
        for name, (layer, quantized, weight, bias) in self.held.items():
            model.quantized[name] = quantized
            model.write(layer, weight, bias)


def network_db(model: Model, exact: Model, images: Dataset) -> float:
    """Signal to noise of the outputs, in dB: the file's against the float network's."""
    sessions = open_session(float_model(exact.graph)), open_session(emit(model, "int8"))
    names = [output.name for output in sessions[0].get_outputs()]
    signal, noise = 0.0, 0.0
    for batch in images.batches(_BATCH):
        for expected, found in zip(*(session.run(names, batch.feeds) for session in sessions), strict=True):
            if len(expected) >= batch.count:  # else it has no entry for every image, and all of it counts
                expected, found = expected[: batch.count], found[: batch.count]
            signal += float(np.square(expected, dtype=np.float64).sum())
            noise += float(np.square(expected.astype(np.float64) - found).sum())
    return decibel(signal, noise)
