"""Pruned layers of a file: which they are, and how many of their weights are zero.

`convert` writes the pattern of every pruned layer into the metadata. Zeros are counted in the codes themselves.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from converter.qdq.stored_weights import StoredWeight, Tensors, find_weights, weight_roles
from converter.qdq.weight_reader import weight_codes
from passes.report import TakenChannels

__all__ = ["CHANNELS_KEY", "KEY", "nonzeros", "pruned_patterns", "shares_of_zeros", "taken_channels"]

KEY = "pruned"
"""Metadata entry, after the prefix ``convert_onnx.``: the pattern of every pruned layer by its name, as JSON."""

CHANNELS_KEY = "channels"
"""Metadata entry: the fields of `passes.report.TakenChannels`, as JSON."""


def pruned_patterns(model: onnx.ModelProto) -> dict[str, str]:
    """Return the pattern of every layer that was pruned, by name: "unstructured" or "2:4"."""
    text = next((entry.value for entry in model.metadata_props if entry.key == f"convert_onnx.{KEY}"), "{}")
    try:
        found: Any = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return {str(name): str(pattern) for name, pattern in found.items()} if isinstance(found, Mapping) else {}


def taken_channels(model: onnx.ModelProto) -> TakenChannels | None:
    """Return what was taken out of a file with whole channels, as its metadata say. None: nothing was.

    An entry of another form than `convert` writes counts as none.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == f"convert_onnx.{CHANNELS_KEY}"), "null")
    try:
        stored = json.loads(text)
        groups = {str(name): (int(one), int(other)) for name, (one, other) in stored["groups"].items()}
        channels, weights = ((int(one), int(other)) for one, other in (stored["channels"], stored["weights"]))
        macs = stored["macs"] and (int(stored["macs"][0]), int(stored["macs"][1]))
    except (TypeError, KeyError, ValueError, AttributeError, IndexError):
        return None
    return TakenChannels(groups, channels, weights, macs)


def shares_of_zeros(model: onnx.ModelProto) -> dict[str, float]:
    """Return the share of zero weights of every layer whose weights can be read, by name.

    Nothing is counted, and the result is empty, if the file does not say that a layer was pruned.
    """
    if not pruned_patterns(model):
        return {}
    tensors = Tensors.of(model.graph)
    shares = {}
    for node in tensors.nodes:
        parts = [values for weight in find_weights(node, tensors) if (values := nonzeros(weight, tensors)) is not None]
        count = sum(values.size for values in parts)
        if count and len(parts) == len(weight_roles(node)):
            shares[node.name or node.output[0]] = 1 - sum(int(values.sum()) for values in parts) / count
    return shares


def nonzeros(stored: StoredWeight, tensors: Tensors) -> NDArray[np.bool_] | None:
    """Return which weights are not zero, in the shape that the operator reads. None if the form is unknown."""
    codes = weight_codes(stored, tensors)
    if codes is not None:
        return np.asarray(codes.codes != codes.zero_point)
    if stored.codes is None or not stored.is_float or stored.operators:
        return None
    return np.asarray(numpy_helper.to_array(stored.codes) != 0)
