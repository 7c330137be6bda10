"""How many samples run together: as many as their activations leave room for in one memory budget."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch, Dataset
from converter.model_io.scratch import scratch_folder
from converter.runtime.session import open_session
from passes.errors import ModelError

__all__ = ["DEFAULT_MEMORY_BUDGET", "batch_size", "run_bytes"]

DEFAULT_MEMORY_BUDGET = 1 << 30
"""Bytes of activations in memory. Half of it is for the samples that run together, half for tensors that are kept."""

_ALIVE = 3  # steps of a network whose tensors are in memory at the same time: a shortcut, and buffers of a kernel


def batch_size(
    data: Dataset, most: int, sample_bytes: Callable[[Batch], int], available: int = DEFAULT_MEMORY_BUDGET // 2
) -> int:
    """Return how many samples may run together: ``most``, or half of that again and again until they fit, at least 1.

    Args:
        data: The data. Nothing is measured if samples run alone, or if the model has a fixed batch size.
        most: A power of two.
        sample_bytes: Returns the bytes that a batch takes, which it may run to find out.
        available: Bytes that all samples of a batch may take together.
    """
    if data.alone or data.static_batch is not None or len(data) == 1:
        return most
    each, size = sample_bytes(next(data.batches(1))), most
    while size > 1 and size * each > available:
        size //= 2
    return size


def run_bytes(model: Path | onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> int:
    """Return about the most bytes of activations that onnxruntime holds while it runs a model once.

    Args:
        model: The model.
        feeds: Its inputs.

    Raises:
        ModelError: onnxruntime cannot load or run the model.
    """
    with scratch_folder() as folder:
        session = open_session(model, profile=folder / "profile")
        try:
            session.run(None, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ModelError(f"fails when it runs: {str(error).splitlines()[0]}") from error
        finally:
            profile = Path(session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
    steps = [event["args"] for event in events if event.get("cat") == "Node" and "output_size" in event.get("args", {})]
    return _ALIVE * max((int(args["output_size"]) + int(args["activation_size"]) for args in steps), default=0)
