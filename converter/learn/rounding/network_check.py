"""Check of the whole network on held-out samples. Blocks that each gain may still make the network worse."""

from collections.abc import Mapping

import numpy as np

from converter.data.dataset import Dataset
from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from converter.runtime.batch_size import batch_size, run_bytes
from converter.runtime.output_numbers import numbers
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
    size = batch_size(images, _BATCH, lambda sample: run_bytes(float_model(reference.graph), sample.feeds))
    for batch in images.batches(size):
        for one, other in zip(*(session.run(names, batch.feeds) for session in sessions), strict=True):
            expected, actual = batch.real(numbers(one)), batch.real(numbers(other))
            if expected.shape != actual.shape:  # such as another number of detections
                continue
            signal += float(np.square(expected, dtype=np.float64).sum())
            noise += float(np.square(expected.astype(np.float64) - actual).sum())
    return decibel(signal, noise)
