"""Ranges of activations on 1-D networks for sound: the rule that `int8` chooses, and min-max.

    python -m benchmarks.range_rules

15 random networks with LeakyRelu, Relu or Tanh. 64 sounds calibrate, 64 others are measured. The exit code is 1 if a
network has over 0.5 dB less than with min-max.
"""

import dataclasses
import logging
import sys
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.shipped.files import sound
from converter import convert
from converter.recipes.builtin import find_recipe
from converter.recipes.recipe import Recipe
from converter.runtime.session import open_session
from passes.activations.activation_ranges import ActivationRanges
from passes.numerics.error import sqnr_db

__all__ = ["main", "measured", "network"]

_LENGTH, _SOUNDS, _LAYERS, _CHANNELS, _TAPS, _OUTPUTS = 1024, 64, 5, 24, 9, 8
_BAR_DB = 0.5


def network(activation: str, seed: int) -> onnx.ModelProto:
    """Return a network of strided convolutions with random weights on sounds [n, 1, 1024]."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    tensor, channels = "x", 1
    for index in range(_LAYERS):
        scale = 1.4 / np.sqrt(channels * _TAPS)
        weights += [
            numpy_helper.from_array(
                (scale * rng.standard_normal((_CHANNELS, channels, _TAPS))).astype(np.float32), f"w{index}"
            ),
            numpy_helper.from_array((0.1 * rng.standard_normal(_CHANNELS)).astype(np.float32), f"b{index}"),
        ]
        reads = [tensor, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", reads, [f"c{index}"], f"conv{index}", pads=[_TAPS // 2] * 2, strides=[2]))
        slope: dict[str, Any] = {"alpha": 0.1} if activation == "LeakyRelu" else {}
        tensor, channels = f"a{index}", _CHANNELS
        nodes.append(helper.make_node(activation, [f"c{index}"], [tensor], **slope))
    last = (rng.standard_normal((_OUTPUTS, channels, 1)) / np.sqrt(channels)).astype(np.float32)
    weights.append(numpy_helper.from_array(last, "w"))
    nodes.append(helper.make_node("Conv", [tensor, "w"], ["y"], "last"))
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, _LENGTH])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", _OUTPUTS, None])
    graph = helper.make_graph(nodes, "sounds", [given], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measured(activation: str, seed: int) -> tuple[float, float]:
    """Return the SQNR in dB with the chosen rule and with min-max."""
    model = network(activation, seed)
    fit, unseen = _sounds(1), _sounds(2)
    expected = open_session(model).run(None, {"x": unseen})[0]
    found = []
    for recipe in (find_recipe("int8"), _minmax()):
        session = open_session(convert(model, fit, recipe=recipe).model, exact=True)
        found.append(sqnr_db(expected, session.run(None, {"x": unseen})[0]))
    return found[0], found[1]


def _minmax() -> Recipe:
    recipe = find_recipe("int8")
    passes = [
        dataclasses.replace(step, method="minmax") if isinstance(step, ActivationRanges) else step
        for step in recipe.passes
    ]
    return dataclasses.replace(recipe, passes=tuple(passes))


def _sounds(seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.stack([sound(_LENGTH, rng) for _ in range(_SOUNDS)])[:, None]


def main() -> int:
    """Print both SQNRs of every network, and the largest loss."""
    logging.disable(logging.WARNING)
    losses = []
    for activation in ("LeakyRelu", "Relu", "Tanh"):
        for seed in range(5):
            chosen, whole = measured(activation, seed)
            losses.append(whole - chosen)
            print(f"{activation} {seed}: {chosen:.1f} dB, min-max {whole:.1f} dB", flush=True)
    print(f"largest loss against min-max: {max(losses):.2f} dB")
    return int(max(losses) > _BAR_DB)


if __name__ == "__main__":
    sys.exit(main())
