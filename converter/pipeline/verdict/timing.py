"""Latency of the float model and of the file on this machine, in a few seconds at most."""

import logging
from pathlib import Path

import onnx

from converter.data.dataset import Batch
from converter.model_io.sizes import serialized_bytes
from converter.runtime.latency import Latencies, latencies
from passes.errors import ModelError

__all__ = ["time_pair"]

_LOG = logging.getLogger(__name__)

_SECONDS = 1.0
_SLOWEST = 1.0  # seconds of a run; a slower model is not timed, since that would take ten runs
_ROUNDS, _FEWEST = 30, 3
_LARGEST = 2**29  # bytes of a model whose two sessions are opened for this


def time_pair(reference: Path | onnx.ModelProto, quantized: onnx.ModelProto, sample: Batch) -> Latencies | None:
    """Time both models in turns, at batch 1 on one thread. None if they are too large or too slow for it.

    Args:
        reference: The float model.
        quantized: The file.
        sample: At least one sample.
    """
    size = reference.stat().st_size if isinstance(reference, Path) else serialized_bytes(reference)
    if max(size, serialized_bytes(quantized)) > _LARGEST:
        return None
    names = ["the float model", "the file"]
    try:
        if min(latencies([reference], sample, names=names[:1], rounds=1, warmup=0, fewest=1).ms) > 1000 * _SLOWEST:
            return None
        return latencies(
            [reference, quantized], sample, names=names, rounds=_ROUNDS, warmup=1, budget=_SECONDS, fewest=_FEWEST
        )
    except ModelError as error:  # the file is made, and its speed is only good to know
        _LOG.warning(f"the file was not timed: {error}")
        return None
