"""A signal front end in the model: filters on a raw waveform, magnitude, logarithm, then a small CNN."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import convert
from passes.numerics.error import sqnr_db
from tests.support.networks import network, optimized, random, run
from tests.support.recipes import brief

node = helper.make_node
BANDS, TAPS, SAMPLES = 12, 64, 2048


def front_end() -> onnx.ModelProto:
    """Two octaves: a bank of filters at each, and a low-pass filter between them."""
    steps = np.arange(TAPS)
    window = np.hanning(TAPS) / TAPS * 4
    bands = np.geomspace(4, 30, BANDS)
    wave = 2 * np.pi * bands[:, None] * steps / TAPS
    low = np.sinc((steps - TAPS / 2 + 0.5) / 2) / 2 * np.hanning(TAPS)
    constants: dict[str, NDArray[Any]] = {
        "re": (np.cos(wave) * window)[:, None, None].astype(np.float32),
        "im": (np.sin(wave) * window)[:, None, None].astype(np.float32),
        "low": low[None, None, None].astype(np.float32),
        "eps": np.array(1e-10, np.float32),
        "k": random(8, 1, 3, 3) * np.float32(0.3),
        "shape": np.array([0, 1, BANDS, -1]),
    }
    nodes, source, means = [], "x", []
    for octave in range(2):
        for part in ("re", "im"):
            nodes.append(node("Conv", [source, part], [f"{part}{octave}"], f"{part}{octave}", strides=[1, 8 >> octave]))
            nodes.append(node("Mul", [f"{part}{octave}"] * 2, [f"{part}2{octave}"], f"{part}2{octave}"))
        nodes += [
            node("Add", [f"re2{octave}", f"im2{octave}"], [f"p{octave}"], f"p{octave}"),
            node("Add", [f"p{octave}", "eps"], [f"q{octave}"], f"q{octave}"),
            node("Log", [f"q{octave}"], [f"l{octave}"], f"l{octave}"),
            node("ReduceMean", [f"l{octave}"], [f"m{octave}"], f"m{octave}", axes=[3], keepdims=1),
        ]
        means.append(f"m{octave}")
        if octave == 0:
            nodes.append(node("Conv", ["x", "low"], ["half"], "low", strides=[1, 2]))
            source = "half"
    nodes += [
        node("Concat", means, ["joined"], "join", axis=3),
        node("Reshape", ["joined", "shape"], ["image"], "reshape"),
        node("Conv", ["image", "k"], ["c"], "cnn", pads=[1] * 4),
        node("Relu", ["c"], ["y"], "relu"),
    ]
    return network(nodes, constants, {"x": ["N", 1, 1, SAMPLES]}, {"y": ["N", 8, BANDS, 2]}, opset=17)


def tones(count: int, seed: int) -> NDArray[np.float32]:
    """Sums of a few sines of very different loudness."""
    draw = np.random.default_rng(seed)
    time = np.arange(SAMPLES) / 16000
    waves = [
        sum(
            draw.uniform(0.02, 0.4) * np.sin(2 * np.pi * f * time + draw.uniform(0, 6))
            for f in draw.uniform(60, 6000, 5)
        )
        * draw.uniform(0.05, 0.6)
        + draw.normal(0, 1e-3, SAMPLES)
        for _ in range(count)
    ]
    return np.stack(waves).astype(np.float32)[:, None, None]


@pytest.mark.parametrize("recipe", ["int8", "int4", "int4-weight-only"])
def test_a_front_end_keeps_its_precision(recipe: str, tmp_path: Path) -> None:
    model = front_end()
    result = convert(model, tones(32, 0), recipe=brief(recipe))
    assert sqnr_db(run(model, tones(8, 1))[0], run(result.model, tones(8, 1))[0]) > 22
    layers = {layer.name: layer for layer in result.layers}
    assert {layers[name].bits for name in ("re0", "im1", "low")} == {8}
    assert layers["cnn"].bits == (8 if recipe == "int8" else 4)
    if recipe == "int8":
        assert "a logarithm of its output needs the precision of small values" in layers["low"].note
        assert optimized(result.model, tmp_path)["QLinearConv"] == 1


def test_bits_that_a_recipe_names_hold() -> None:
    result = convert(front_end(), tones(16, 0), recipe="int4", bits={"low": 4})
    assert {layer.name: layer.bits for layer in result.layers}["low"] == 4
