"""Latency of the float model and of the file on this machine, in a second or two."""

from pathlib import Path

import onnx

from converter.data.dataset import Batch
from converter.model_io.sizes import serialized_bytes
from converter.runtime.latency import Latencies, latencies

__all__ = ["time_pair"]

_SECONDS = 1.0
_ROUNDS, _FEWEST = 30, 3
_LARGEST = 2**29  # bytes of a model whose two sessions are opened for this


def time_pair(reference: Path | onnx.ModelProto, quantized: onnx.ModelProto, sample: Batch) -> Latencies | None:
    """Time both models in turns, at batch 1 on one thread. None if they are too large to be opened for it.

    Args:
        reference: The float model.
        quantized: The file.
        sample: At least one sample.

    Raises:
        ModelError: A model cannot be loaded or run.
    """
    size = reference.stat().st_size if isinstance(reference, Path) else serialized_bytes(reference)
    if max(size, serialized_bytes(quantized)) > _LARGEST:
        return None
    names = ["the float model", "the file"]
    return latencies(
        [reference, quantized], sample, names=names, rounds=_ROUNDS, warmup=1, budget=_SECONDS, fewest=_FEWEST
    )
