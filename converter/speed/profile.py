"""Profile of a model in onnxruntime: the time of each layer, including quantizing and dequantizing."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.model_io.scratch import scratch_folder
from converter.runtime.session import open_session

__all__ = ["layer_seconds", "node_seconds", "node_seconds_in_turns"]

_MADE_BY_RUNTIME = re.compile(r"(_token_\d+|_nchwc)+$")  # suffix of a node that replaces the node of that name
_KERNEL = "_kernel_time"


def node_seconds(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], runs: int) -> dict[str, float]:
    """Measure every node that onnxruntime runs, on one thread.

    Args:
        model: The model.
        feeds: Its inputs.
        runs: Number of runs.

    Returns:
        Median seconds. The key is the name of the node in ``model``.
    """
    return node_seconds_in_turns([model], feeds, runs)[0]


def node_seconds_in_turns(
    models: Sequence[onnx.ModelProto], feeds: Mapping[str, NDArray[Any]], runs: int, quantile: float = 0.5
) -> list[dict[str, float]]:
    """Measure every node of several models that run in turns, so that a slow minute affects all of them alike.

    Args:
        models: The models.
        feeds: Their inputs.
        runs: Number of runs of each.
        quantile: Quantile of the times of a node that is returned.

    Returns:
        Seconds for each model. The key is the name of the node in the model.
    """
    with scratch_folder() as folder:
        sessions = [
            open_session(model, threads=1, profile=folder / f"profile{index}") for index, model in enumerate(models)
        ]
        for _ in range(runs):
            for session in sessions:
                session.run(None, dict(feeds))
        return [
            _seconds_of(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")), quantile)
            for session in sessions
        ]


def _seconds_of(events: Sequence[Mapping[str, Any]], quantile: float) -> dict[str, float]:
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            times[event["name"].removesuffix(_KERNEL)].append(event["dur"] / 1e6)
    seconds_of: dict[str, float] = defaultdict(float)
    for name, seconds in times.items():
        seconds_of[_MADE_BY_RUNTIME.sub("", name)] += float(np.quantile(seconds, quantile))
    return dict(seconds_of)


def layer_seconds(times: Mapping[str, float], layers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Add up the seconds of the nodes of each layer. Layers without a node in onnxruntime are left out.

    Args:
        times: Seconds of each node.
        layers: For each layer, the names of the nodes that may represent it: its own first, then a clamp that it was
            fused with, then the nodes that quantize and dequantize.
    """
    seconds = {}
    for name, nodes in layers.items():
        if any(node in times for node in nodes[:2]):
            seconds[name] = sum(times.get(node, 0.0) for node in dict.fromkeys(nodes))
    return seconds
