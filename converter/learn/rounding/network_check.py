"""Check of the whole network on held-out images. Blocks that each gain may still make the network worse."""

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
    """Copy of the quantized layers of a model, from which they can be restored."""

    def __init__(self, model: Model, layers: Mapping[str, Linear]) -> None:
        self.saved: dict[str, tuple[Linear, Quantized, Floats, Floats | None]] = {
            name: (layer, model.quantized[name], model.weight(layer), model.bias(layer))
            for name, layer in layers.items()
        }

    def restore(self, model: Model) -> None:
        """Write the saved layers back into the model."""
        for name, (layer, quantized, weight, bias) in self.saved.items():
            model.quantized[name] = quantized
            model.write(layer, weight, bias)


def network_db(model: Model, reference: Model, images: Dataset) -> float:
    """Signal-to-noise ratio of the file's outputs against the float network's, in dB."""
    sessions = open_session(float_model(reference.graph)), open_session(emit(model, "int8"))
    names = [output.name for output in sessions[0].get_outputs()]
    signal, noise = 0.0, 0.0
    for batch in images.batches(_BATCH):
        for expected, actual in zip(*(session.run(names, batch.feeds) for session in sessions), strict=True):
            if len(expected) >= batch.count:  # otherwise the output has no entry per image, and all of it counts
                expected, actual = expected[: batch.count], actual[: batch.count]
            signal += float(np.square(expected, dtype=np.float64).sum())
            noise += float(np.square(expected.astype(np.float64) - actual).sum())
    return decibel(signal, noise)
