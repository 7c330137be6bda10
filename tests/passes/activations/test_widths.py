"""Activations of 16 bits by layer: which tensors get them, and the copies where widths meet."""

import dataclasses

import numpy as np
import pytest

from passes.activations.activation_ranges import ActivationRanges
from passes.errors import TargetError, UnknownLayerError
from passes.ir.model import Model
from passes.numerics.histogram import Histogram
from passes.statistics import Stats
from tests.support.graphs import array, node
from tests.support.integer_rules import RULES
from tests.support.placed_graphs import POOL, conv, graph_of

WIDE_RULES = dataclasses.replace(RULES, activation_bits=frozenset({8, 16}))

CHAIN = [
    conv("x", "a", "c1"),
    node("Relu", ["a"], ["b"], name="relu"),
    node("MaxPool", ["b"], ["p"], name="pool", **POOL),
    conv("p", "c", "c2"),
    conv("c", "d", "c3"),
    node("Add", ["c", "d"], ["e"], name="add"),
    conv("e", "y", "c4"),
]


def ranged(*wide: str, bits: int = 8) -> Model:
    """Choose ranges of the chain on random values."""
    model = Model(graph_of(CHAIN), WIDE_RULES)
    step = ActivationRanges(bits=bits, wide=wide)  # type: ignore[arg-type]
    step.requires(model)
    histograms = {}
    for seed, name in enumerate(sorted(step.needs(model).histograms)):
        histograms[name] = Histogram()
        values = array(2000, seed=seed)
        histograms[name].update(np.maximum(values, 0) if name in {"b", "p"} else values)
    step.apply(model, Stats(histograms))
    return model


def bits_of(model: Model) -> dict[str, int]:
    return {name: grid.bits for name, grid in model.activation_qparams.items()}


def read_by(model: Model, name: str) -> list[str]:
    return [str(tensor.name) for tensor in model.node(name).inputs if tensor.name in model.activation_qparams]


def test_all_have_16_bits_and_clip_nothing() -> None:
    model = ranged(bits=16)
    assert set(bits_of(model).values()) == {16}
    assert [node.op for node in model.graph.nodes] == [node.op_type for node in CHAIN]
    grid = model.activation_qparams["c"]
    assert (grid.dtype, grid.code_range) == (np.uint16, (0, 65535))
    assert grid.ends[0] <= grid.low + grid.scale
    assert grid.ends[1] >= grid.high - grid.scale


def test_a_layer_of_16_bits_reads_a_copy_and_writes_16() -> None:
    model = ranged("c2")
    assert bits_of(model) == {"x": 8, "b": 8, "p": 8, "p_16bit": 16, "c": 16, "c_8bit": 8, "d": 8, "e": 8, "y": 8}
    assert read_by(model, "c2") == ["p_16bit"]
    assert read_by(model, "c3") == ["c_8bit"]
    assert read_by(model, "add") == ["c_8bit", "d"]


def test_a_copy_of_16_bits_loses_nothing_and_one_of_8_has_its_own_range() -> None:
    grids, plain = ranged("c2").activation_qparams, ranged().activation_qparams
    values = np.linspace(-5, 5, 4001, dtype=np.float32)
    rounded = grids["p"].values(values)
    np.testing.assert_allclose(grids["p_16bit"].values(rounded), rounded, rtol=1e-6, atol=0)
    assert grids["c_8bit"] == plain["c"]


def test_a_clamp_and_a_pool_have_the_width_of_their_layer() -> None:
    for wide in ("c1", "relu"):
        model = ranged(wide)
        assert {name: count for name, count in bits_of(model).items() if count == 16} == {"b": 16, "p": 16} | (
            {"x": 16} if wide == "c1" else {}
        )
        assert read_by(model, "c2") == ["p_8bit"]


def test_widths_of_the_target() -> None:
    narrow = Model(graph_of(CHAIN), RULES)
    for step in (ActivationRanges(bits=16), ActivationRanges(wide=("c2",))):
        with pytest.raises(
            TargetError, match="no integer kernels for activations of 16 bits, so the file would be slow"
        ):
            step.requires(narrow)
    ActivationRanges().requires(narrow)
    with pytest.raises(UnknownLayerError, match="c9"):
        ActivationRanges(wide=("c9",)).requires(Model(graph_of(CHAIN), WIDE_RULES))
    with pytest.raises(ValueError, match="leave one of the two out"):
        ActivationRanges(bits=16, wide=("c2",))
