"""How long onnxruntime takes for each layer of a model, rounding to integers and back included."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.runtime.session import open_session

__all__ = ["layer_seconds", "node_seconds"]

_MADE_BY_RUNTIME = re.compile(r"(_token_\d+|_nchwc)+$")  # behind the name of the node that a new one stands for
_KERNEL = "_kernel_time"


def node_seconds(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], runs: int) -> dict[str, float]:
    """Median seconds of every node that onnxruntime runs, on one thread, by the name of the node it came from."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        session = open_session(model, threads=1, profile=Path(folder) / "profile")
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            times[event["name"].removesuffix(_KERNEL)].append(event["dur"] / 1e6)
    found: dict[str, float] = defaultdict(float)
    for name, seconds in times.items():
        found[_MADE_BY_RUNTIME.sub("", name)] += float(np.median(seconds))
    return dict(found)


def layer_seconds(times: Mapping[str, float], layers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The sum over the nodes that belong to each layer; without the layers that onnxruntime has no node for.

    layers   by name, the nodes that may stand for it: its own first, then a clamp it was fused with, then rounding
    """
    found = {}
    for name, nodes in layers.items():
        if any(node in times for node in nodes[:2]):
            found[name] = sum(times.get(node, 0.0) for node in dict.fromkeys(nodes))
    return found
