"""Layers use the bits of the type that stores them: no file grows, no layer has fewer bits, and the error falls."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from converter.calibration.recurrent import round_recurrent
from converter.calibration.sequential import solve_layers
from converter.calibration.stored_bits import with_stored_bits
from converter.qdq.layer_forms import bits_in_file, recurrent_bits_in_file
from converter.qdq.weights import STORAGES, Storage
from converter.qdq.writer import emit
from converter.targets.catalog import find_target
from passes.base import LayerPass
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.weights.rtn import Rtn
from tests.support.networks import LAYERS, conv, images, network, prepared, quiet, random, set_ranges, single, wide
from tests.support.recurrent_layers import stacked

X = images(2, 3, 4, 4)
FORMS: dict[str, dict[str, Any]] = {
    "channel": {},
    "channel, asymmetric": {"symmetric": False},
    "blocks": {"block_size": 16},
    "two levels": {"block_size": 8, "two_level": True},
    "two levels, whole blocks": {"block_size": 16, "two_level": True, "fewest_blocks": 0},
}


def graph_bytes(model: onnx.ModelProto) -> int:
    return len(model.graph.SerializeToString())


def solved(model: Model, step: LayerPass, storage: Storage) -> tuple[onnx.ModelProto, dict[str, int], str]:
    """The file, the bits of each layer, and the note."""
    wider, notes = with_stored_bits(step, model, storage)
    solve_layers(model, wider, None, quiet)
    bits = {name: quantized.grid.bits for name, quantized in model.quantized.items()}
    return emit(model, storage, smallest=True), bits, " ".join(notes)


def of_widths(first: int, second: int, classes: int) -> onnx.ModelProto:
    """A network whose layers have any sizes, a depthwise one among them."""
    constants: dict[str, NDArray[Any]] = {"fc.weight": random(classes, second, seed=50)}
    node = helper.make_node
    nodes = [
        conv(constants, "stem", "x", "a", (first, 3, 3, 3)),
        node("Relu", ["a"], ["a_relu"], "relu1"),
        conv(constants, "depthwise", "a_relu", "b", (first, 1, 3, 3), group=first),
        node("Relu", ["b"], ["b_relu"], "relu2"),
        conv(constants, "points", "b_relu", "c", (second, first, 1, 1)),
        conv(constants, "large", "c", "d", (second, second, 3, 3)),
        node("GlobalAveragePool", ["d"], ["average"], "average"),
        node("Flatten", ["average"], ["flat"], "flatten"),
        node("Gemm", ["flat", "fc.weight"], ["y"], "fc", transB=1),
    ]
    return network(nodes, constants, {"x": ["N", 3, 4, 4]}, {"y": ["N", classes]})


@settings(max_examples=40)
@given(
    widths=st.tuples(st.integers(1, 40), st.integers(1, 48), st.integers(1, 200)),
    bits=st.integers(2, 8),
    form=st.sampled_from(list(FORMS)),
    storage=st.sampled_from(STORAGES),
    integers=st.booleans(),
    target=st.sampled_from(["cpu", "cpu-avx2", "generic"]),
)
def test_no_file_grows_and_no_layer_loses_bits(
    widths: tuple[int, int, int], bits: int, form: str, storage: Storage, integers: bool, target: str
) -> None:
    fields = FORMS[form]
    two_level = fields.get("two_level", False)
    if two_level and (bits > 4 or storage in {"matmulnbits", "dequantize", "dynamic"}):
        return  # refused
    if (integers and (not fields.get("symmetric", True) or form == "blocks")) or (storage == "dynamic" and fields):
        return  # no kernel reads them
    found = {}
    for stored in (False, True):
        model = replace(prepared(of_widths(*widths)), rules=find_target(target).rules)
        if integers:
            set_ranges(model, X)
        file, each, _ = solved(model, Rtn(bits=bits, stored_bits=stored, **fields), storage)
        found[stored] = graph_bytes(file), each
        if not stored:
            centred = any(quantized.grid.symmetric for quantized in model.quantized.values())
        else:
            for name, layer in model.layers().items():
                in_file = bits_in_file(model, layer, storage, smallest=True)
                assert each[name] <= in_file
                free = {2: {2}, 3: {3}, 4: {4}, 8: {7, 8} if bits < 7 else {bits, 8}}[in_file]
                assert each[name] in free, (name, in_file)
    before, after = found[False], found[True]
    if fields.get("symmetric", True) or not centred:  # zero points that all happen to be 0 are left out
        assert after[0] <= before[0]
    assert all(after[1][name] >= before[1][name] == bits for name in before[1])


TWO_LEVELS = FORMS["two levels"]


@pytest.mark.parametrize(
    ("bits", "form", "integers", "expected"),
    [
        (3, {}, False, {"stem": 4, "narrow": 4, "broad": 4, "large": 4, "faint": 4, "fc": 4}),
        (3, {}, True, {"stem": 4, "narrow": 7, "broad": 4, "large": 3, "faint": 3, "fc": 4}),
        (3, TWO_LEVELS, False, {"stem": 8, "narrow": 8, "broad": 4, "large": 4, "faint": 4, "fc": 8}),
        (4, TWO_LEVELS, True, {"stem": 7, "narrow": 7, "broad": 4, "large": 4, "faint": 4, "fc": 7}),
        (5, {}, True, {"stem": 7, "narrow": 7, "broad": 7, "large": 7, "faint": 7, "fc": 7}),
        (6, {}, False, {"stem": 8, "narrow": 8, "broad": 8, "large": 8, "faint": 8, "fc": 8}),
    ],
)
def test_what_the_layers_of_a_network_get(
    bits: int, form: dict[str, Any], integers: bool, expected: dict[str, int]
) -> None:
    """3 bits in 3 bits, in INT4, and in INT8; layers on integers get codes at which no kernel saturates."""
    model = prepared(wide())
    if integers:
        set_ranges(model, images(8, 3, 12, 12))
    _, found, note = solved(model, Rtn(bits=bits, stored_bits=True, **form), "packed")
    assert found == expected
    more = [count for count in expected.values() if count > bits]
    assert note.startswith(f"{len(more)} of 6 layers use all bits of the type that stores them: ")
    assert note.endswith(f"{max(more)} bits in {more.count(max(more))}")
    if integers:
        assert max(np.abs(quantized.codes).max() for quantized in model.quantized.values()) <= 64


def test_it_is_off_unless_asked_for_and_named_layers_keep_their_bits() -> None:
    model = prepared(wide())
    step = Rtn(bits=3)
    assert with_stored_bits(step, model, "cast") == (step, ())
    step = Rtn(bits=3, stored_bits=True, first_last_bits=5, layer_bits={"l*": 3, "narrow": 2})
    wider, _ = with_stored_bits(step, model, "cast")
    assert wider.bits_of(model.layers(), model.graph) == {
        "stem": 8,
        "narrow": 2,
        "broad": 4,
        "large": 3,
        "faint": 4,
        "fc": 8,
    }
    full = Rtn(bits=8, stored_bits=True)
    assert with_stored_bits(full, model, "cast") == (full, ())


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_at_3_bits_in_int4(name: str) -> None:
    wider, _ = with_stored_bits(Rtn(bits=3, stored_bits=True), prepared(single(name)), "cast")
    assert wider.layer_bits == {"layer": 4}


def tied(size: int) -> onnx.ModelProto:
    """Two Gemm that read one weight."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "first", transB=1),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Gemm", ["b", "w"], ["c"], "second", transB=1),
        helper.make_node("Relu", ["c"], ["y"], "relu2"),
    ]
    return network(nodes, {"w": random(size, size)}, {"x": ["N", size]}, {"y": ["N", size]})


@pytest.mark.parametrize("size", [8, 24, 96])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_layers_that_share_a_weight_agree_and_it_is_not_copied(bits: int, size: int) -> None:
    found = {}
    for stored in (False, True):
        model = prepared(tied(size))
        set_ranges(model, images(8, size))
        file, each, _ = solved(model, Rtn(bits=bits, stored_bits=stored), "cast")
        assert each["first"] == each["second"]
        found[stored] = graph_bytes(file), each["first"]
    assert found[True][0] <= found[False][0]
    assert found[True][1] == {2: 2, 3: 7 if size == 8 else 4, 4: 7 if size == 8 else 4, 5: 7}[bits]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("storage", ["cast", "dynamic"])
@pytest.mark.parametrize("shared", [False, True])
def test_recurrent_weights(op: str, storage: Storage, shared: bool) -> None:
    found = {}
    for stored in (False, True):
        model = Model(import_graph(stacked(op, 2 if shared else 1, shared=shared)), find_target("cpu").rules)
        step, _ = with_stored_bits(Rtn(bits=3, recurrent=True, stored_bits=stored), model, storage)
        round_recurrent(model, step, step.bits_of_recurrent(model))
        layer, weights = model.recurrent_layers()["rnn0"], model.recurrent["rnn0"].weights
        bits = {weight.grid.bits for weight in weights}
        assert recurrent_bits_in_file(model, layer, storage, smallest=True) >= max(bits)
        found[stored] = graph_bytes(emit(model, storage, smallest=True)), bits
    assert found[True][0] <= found[False][0]
    assert found[False][1] == {3}
    assert found[True][1] == {4}
