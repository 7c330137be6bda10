"""Sparse tensors wherever a model may hold one: sound ones compute the same, broken ones are refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper, numpy_helper

import converter
from converter.model_io.cpu_session import cpu_session
from converter.model_io.load import load_proto, read_onnx
from converter.model_io.sparse import _mentions, with_dense_functions
from passes.errors import ModelError

node = helper.make_node
X = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
ADD = node("Add", ["h", "s"], ["y"])
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def sparse(indices: NDArray[Any], shape: tuple[int, ...] = (4, 1, 1), values: Any = None) -> SparseTensorProto:
    if values is None:
        values = np.arange(1, 1 + len(indices), dtype=np.float32)
    made = SparseTensorProto(dims=shape)
    made.values.CopyFrom(numpy_helper.from_array(values, "s"))
    made.indices.CopyFrom(numpy_helper.from_array(indices, "at"))
    return made


def flat(*indices: int) -> NDArray[np.int64]:
    return np.array(indices, np.int64)


SOUND = sparse(flat(0, 3))


def info(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def built(*nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> onnx.ModelProto:
    conv = node("Conv", ["x", "w"], ["h"], name="conv")
    yes = node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    graph = helper.make_graph([conv, yes, *nodes], "net", [info("x", ["N", 3, 8, 8])], [info("y", ["N", 4, 6, 6])])
    graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10, functions=functions)


def constant(tensor: SparseTensorProto) -> onnx.NodeProto:
    return node("Constant", [], ["s"], sparse_value=tensor)


def choice(tensor: SparseTensorProto) -> onnx.NodeProto:
    branch = helper.make_graph([constant(tensor), ADD], "then", [], [info("y", None)])
    other = helper.make_graph([node("Neg", ["h"], ["z"])], "else", [], [info("z", None)])
    return node("If", ["yes"], ["y"], then_branch=branch, else_branch=other)


def loop(tensor: SparseTensorProto) -> onnx.NodeProto:
    body = helper.make_graph(
        [constant(tensor), node("Add", ["state", "s"], ["next"]), node("Identity", ["go"], ["on"])],
        "body",
        [info("step", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("state", None)],
        [info("on", [], TensorProto.BOOL), info("next", None)],
    )
    return node("Loop", ["", "yes", "h"], ["y"], body=body)


def function(*nodes: onnx.NodeProto, name: str = "Plus", inputs: tuple[str, ...] = ("h",)) -> onnx.FunctionProto:
    return helper.make_function("own", name, inputs, ["y"], nodes, OPSETS)


def call(name: str = "Plus", inputs: tuple[str, ...] = ("h",)) -> onnx.NodeProto:
    return node(name, inputs, ["y"], domain="own")


def initializer(tensor: SparseTensorProto) -> onnx.ModelProto:
    model = built(ADD)
    model.graph.sparse_initializer.append(tensor)
    return model


def in_a_loop(tensor: SparseTensorProto) -> onnx.ModelProto:
    model = built(loop(tensor))
    model.graph.node[2].input[0] = "count"
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int64), "count"))
    return model


def in_a_called_function(tensor: SparseTensorProto) -> onnx.ModelProto:
    """A function that another function calls."""
    return built(call("Outer"), functions=(function(constant(tensor), ADD), function(call(), name="Outer")))


def in_a_branch_of_a_function(tensor: SparseTensorProto) -> onnx.ModelProto:
    inputs = ("h", "yes")
    return built(call(inputs=inputs), functions=(function(choice(tensor), inputs=inputs),))


def given_to_a_function(tensor: SparseTensorProto) -> onnx.ModelProto:
    """An attribute of the call, to which a Constant of the function refers."""
    reference = node("Constant", [], ["s"])
    reference.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, ref_attr_name="plus")
    called = function(reference, ADD)
    called.attribute.append("plus")
    calling = call()
    calling.attribute.append(helper.make_attribute("plus", tensor))
    return built(calling, functions=(called,))


PLACES: Mapping[str, Callable[[SparseTensorProto], onnx.ModelProto]] = {
    "initializer": initializer,
    "constant": lambda tensor: built(constant(tensor), ADD),
    "branch": lambda tensor: built(choice(tensor)),
    "loop": in_a_loop,
    "function": lambda tensor: built(call(), functions=(function(constant(tensor), ADD),)),
    "called function": in_a_called_function,
    "branch of a function": in_a_branch_of_a_function,
    "given to a function": given_to_a_function,
}


def run(model: onnx.ModelProto | Path) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    result: NDArray[np.float32] = cpu_session(model, options).run(None, {"x": X})[0]
    return result


@pytest.mark.parametrize("place", PLACES)
def test_a_sound_one_computes_the_same_everywhere(place: str, tmp_path: Path) -> None:
    """It adds 1 to the first channel and 2 to the last: three times in the loop."""
    model = PLACES[place](SOUND)
    onnx.save(model, tmp_path / "net.onnx")
    times = 3 if place == "loop" else 1
    conv = run(built(node("Identity", ["h"], ["y"])))
    expected = conv + times * np.array([1, 0, 0, 2], np.float32).reshape(4, 1, 1)
    loaded = load_proto(model)
    for given in (model, tmp_path / "net.onnx", loaded):
        np.testing.assert_allclose(run(given), expected, rtol=1e-5, atol=1e-5)  # sums of 27 floats in another order
    assert b"sparse_value" not in loaded.SerializeToString()


@pytest.mark.parametrize("place", ["function", "called function", "branch of a function", "given to a function"])
def test_onnxruntime_sees_none_in_a_function(place: str) -> None:
    given = with_dense_functions(PLACES[place](SOUND))
    assert isinstance(given, onnx.ModelProto)
    assert b"sparse_value" not in given.SerializeToString()


def changed(**parts: Any) -> SparseTensorProto:
    """A sound tensor with other fields of its values and indices."""
    tensor = sparse(flat(0, 3))
    for name, value in parts.items():
        part, field = name.split("_", 1)
        target = getattr(tensor, part)
        target.ClearField(field)
        if isinstance(value, list):
            getattr(target, field).extend(value)
        elif value is not None:
            setattr(target, field, value)
    return tensor


def elsewhere() -> SparseTensorProto:
    """The values are in a file. One of that name in the current folder is not it."""
    tensor = changed(values_raw_data=None, values_data_location=TensorProto.EXTERNAL)
    tensor.values.external_data.add(key="location", value="values.bin")
    return tensor


DAMAGED = "its values or indices cannot be read"
BROKEN: Mapping[str, tuple[SparseTensorProto, str]] = {
    "index behind the end": (sparse(flat(0, 4)), "[4, 1, 1] has a value at 4, outside of it"),
    "negative index": (sparse(flat(-1, 3)), "[4, 1, 1] has a value at -1, outside of it"),
    "huge index": (sparse(flat(0, 1 << 60)), "outside of it"),
    "index of an axis": (sparse(np.array([[0, 0, 1]], np.int64)), "has a value at [0, 0, 1], outside of it"),
    "more values": (sparse(flat(0, 3), values=np.ones(5, np.float32)), "has int64 indices [2] for values [5]"),
    "fewer values": (sparse(flat(0, 3), values=np.ones(1, np.float32)), "has int64 indices [2] for values [1]"),
    "too few axes": (sparse(np.zeros((2, 2), np.int64)), "has int64 indices [2, 2] for values [2]"),
    "indices of three axes": (sparse(np.zeros((2, 1, 1), np.int64)), "has int64 indices [2, 1, 1] for values [2]"),
    "float indices": (sparse(np.zeros(2, np.float32)), "has float32 indices [2] for values [2]"),
    "values of two axes": (sparse(flat(0), values=np.ones((1, 1), np.float32)), "for values [1, 1]"),
    "negative size": (sparse(flat(0, 3), (-4,)), "has the shape [-4]"),
    "an exabyte": (sparse(flat(0, 3), (10**9, 10**9)), "is too large with all its zeros"),
    "more than an integer": (sparse(flat(0, 3), (1 << 62, 4)), "is too large with all its zeros"),
    "40 GB": (sparse(flat(0, 3), (10**5, 10**5)), "is too large with all its zeros"),
    "texts": (sparse(flat(0, 3), values=np.array([b"a", b"b"], object)), "holds texts"),
    "nothing": (SparseTensorProto(), DAMAGED),
    "values cut off": (changed(values_raw_data=b"\0" * 5), DAMAGED),
    "indices cut off": (changed(indices_raw_data=b"\0" * 5), DAMAGED),
    "no data": (changed(values_raw_data=b""), DAMAGED),
    "huge values": (changed(values_dims=[1 << 40]), DAMAGED),
    "negative number of values": (changed(values_dims=[-2], indices_dims=[-2]), DAMAGED),
    "unknown type": (changed(values_data_type=99), DAMAGED),
    "no type of the indices": (changed(indices_data_type=0), DAMAGED),
    "data in a file": (elsewhere(), "has its data in another file"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("place", PLACES)
def test_a_broken_one_is_refused(place: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, reason = BROKEN[fault]
    (tmp_path / "values.bin").write_bytes(bytes(8))
    monkeypatch.chdir(tmp_path)
    model, path = PLACES[place](tensor), Path("net.onnx")
    path.write_bytes(model.SerializeToString())
    for read in (lambda: load_proto(model, "net.onnx"), lambda: read_onnx(path), lambda: converter.inspect(path)):
        with pytest.raises(ModelError) as refused:
            read()
        assert str(refused.value).startswith("net.onnx: the sparse tensor ")
        assert reason in str(refused.value)
        assert "\n" not in str(refused.value)


def test_several_large_ones_are_too_large_together() -> None:
    model = initializer(sparse(flat(0, 3), (2**27,)))  # 512 MB, of 1 GB that all of them may have
    for index in range(2):
        other = model.graph.sparse_initializer.add()
        other.CopyFrom(model.graph.sparse_initializer[0])
        other.values.name = f"s{index}"
    with pytest.raises(ModelError, match=r"sparse tensor s1 .* is too large with all its zeros"):
        load_proto(model)


@pytest.mark.parametrize("portion", [1, 3, 12, 13, 100])
def test_text_is_found_across_portions_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    monkeypatch.setattr("converter.model_io.sparse._PORTION", portion)
    file = tmp_path / "file"
    for before in range(30):
        file.write_bytes(b"s" * before + b"sparse_value" + b"e" * 20)
        assert _mentions(file, b"sparse_value")
    file.write_bytes(b"sparse_valu" * 9)
    assert not _mentions(file, b"sparse_value")
