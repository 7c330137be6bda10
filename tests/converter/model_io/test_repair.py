"""What onnxruntime accepts in a file loads, and computes the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.check import check_model
from converter.model_io.cpu_session import cpu_session
from converter.model_io.load import load_proto, read_whole_onnx
from converter.model_io.sparse import with_dense_functions
from passes.errors import ModelError

node = helper.make_node
WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
CONV = node("Conv", ["x", "w"], ["y"], name="conv")
X = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


def info(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def built(*nodes: onnx.NodeProto, outputs: tuple[onnx.ValueInfoProto, ...] = (), opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes or [CONV],
        "net",
        [info("x", ["N", 3, 8, 8])],
        outputs or [info("y", [None, None, None, None])],  # type: ignore[list-item]
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = cpu_session(model, options)
    given = {value.name: X if value.name == "x" else X[:, 0, 0] for value in session.get_inputs()}
    outputs: list[NDArray[np.float32]] = session.run(None, given)
    return outputs


def assert_loads(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model runs, the loaded one computes the same, and the checker accepts it."""
    expected = run(model)
    loaded = load_proto(model)
    result = run(loaded)
    assert len(result) == len(expected)
    for ours, theirs in zip(result, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    check_model(loaded, full=True)
    return loaded


def ir_3() -> onnx.ModelProto:
    """Every file before 2019: initializers, also small ones, are graph inputs too."""
    model = built(node("Conv", ["x", "w", "b"], ["y"]), opset=7)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "b"))
    model.graph.input.extend([info("w", [4, 3, 3, 3]), info("b", [4])])
    model.ir_version = 3
    return model


def no_graph_name() -> onnx.ModelProto:
    model = built()
    model.graph.name = ""
    return model


def domain_in_full() -> onnx.ModelProto:
    model = built()
    model.opset_import[0].domain = model.graph.node[0].domain = "ai.onnx"
    return model


def domain_not_imported() -> onnx.ModelProto:
    return built(node("Conv", ["x", "w"], ["h"]), node("Gelu", ["h"], ["y"], domain="com.microsoft"))


def initializer_twice() -> onnx.ModelProto:
    model = built()
    model.graph.initializer.append(numpy_helper.from_array(2 * WEIGHT, "w"))
    return model


def unsorted() -> onnx.ModelProto:
    """onnxconverter-common writes the Cast of an input last."""
    return built(
        node("Conv", ["s", "w"], ["h"], name="conv"), node("Relu", ["h"], ["y"]), node("Mul", ["x", "x"], ["s"])
    )


def unsorted_captures() -> onnx.ModelProto:
    """A branch reads what a later node computes."""
    branch = [
        helper.make_graph(
            [node("Neg", ["h"], [f"{name}0"]), node("Relu", [f"{name}0"], [name])], name, [], [info(name, None)]
        )
        for name in ("then", "else")
    ]
    return built(
        node("If", ["yes"], ["y"], then_branch=branch[0], else_branch=branch[1]),
        node("Conv", ["x", "w"], ["h"]),
        node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
    )


def initializer_and_input_are_outputs() -> onnx.ModelProto:
    return built(outputs=(info("y", None), info("w", None), info("x", None)))


def constant_is_output() -> onnx.ModelProto:
    constant = node("Constant", [], ["k"], value=numpy_helper.from_array(WEIGHT))
    return built(CONV, constant, outputs=(info("y", None), info("k", None)))


def output_without_type() -> onnx.ModelProto:
    return built(outputs=(onnx.ValueInfoProto(name="y"),))


def input_that_nobody_reads() -> onnx.ModelProto:
    model = built()
    model.graph.input.append(info("unread", ["N", 8]))
    return model


def strange_names() -> onnx.ModelProto:
    middle = 'a b/:;é"\n'
    return built(node("Conv", ["x", "w"], [middle]), node("Relu", [middle], ["y"], name='rélu "x"\n'))


def omitted_inputs_and_outputs() -> onnx.ModelProto:
    return built(
        node("Conv", ["x", "w", ""], ["h"]), node("Clip", ["h", "", ""], ["c"]), node("Dropout", ["c"], ["y", ""])
    )


def wrong_output_rank() -> onnx.ModelProto:
    return built(outputs=(info("y", [1, "length"]),))


def batch_by_hand() -> onnx.ModelProto:
    """Someone gave the input a free batch, and the rest still says 1."""
    model = built(node("Conv", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"]), outputs=(info("y", [1, 4, 6, 6]),))
    model.graph.value_info.append(info("h", [1, 4, 6, 6]))
    return model


def wrong_inner_rank() -> onnx.ModelProto:
    model = built(node("Conv", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"]))
    model.graph.value_info.append(info("h", [1, 2]))
    return model


def wrong_shapes_in_branches() -> onnx.ModelProto:
    branches = []
    for name in ("then", "else"):
        nodes = [node("Neg", ["h"], [f"{name}0"]), node("Relu", [f"{name}0"], [name])]
        inner = [info(f"{name}0", [1, 2])]
        branches.append(helper.make_graph(nodes, name, [], [info(name, [1, 4, 6, 7])], value_info=inner))
    return built(
        node("Conv", ["x", "w"], ["h"]),
        node("ReduceMax", ["h"], ["top"], keepdims=0),
        node("Cast", ["top"], ["yes"], to=TensorProto.BOOL),
        node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    )


def sparse(name: str, indices: NDArray[np.int64], *shape: int) -> onnx.SparseTensorProto:
    values = np.random.default_rng(2).normal(size=len(indices)).astype(np.float32)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, name), numpy_helper.from_array(indices, f"{name}_indices"), shape
    )


def sparse_initializer() -> onnx.ModelProto:
    """A weight by flat indices."""
    model = built(node("Conv", ["x", "w"], ["h"]), node("MatMul", ["h", "s"], ["y"]))
    model.graph.sparse_initializer.append(sparse("s", np.arange(0, 30, 4), 6, 5))
    return model


def sparse_constants() -> onnx.ModelProto:
    """Constant nodes by one index for each axis: in the graph, and in a function."""
    value = sparse("", np.array([[0, 1], [2, 0], [5, 4]]), 6, 5)
    inner = [node("Constant", [], ["k"], sparse_value=value), node("MatMul", ["a", "k"], ["b"])]
    model = built(
        node("Constant", [], ["s"], sparse_value=value),
        node("Conv", ["x", "w"], ["h"]),
        node("MatMul", ["h", "s"], ["m"]),
        node("Times", ["h"], ["n"], domain="own"),
        node("Add", ["m", "n"], ["y"]),
    )
    model.functions.append(helper.make_function("own", "Times", ["a"], ["b"], inner, model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def layer_norm_before_onnx_had_it() -> onnx.ModelProto:
    """onnxruntime's optimizer and old exporters write it at any opset."""
    norm = node("LayerNormalization", ["h", "one"], ["y"], epsilon=1e-6)
    model = built(node("Conv", ["x", "w"], ["h"]), norm, opset=12)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(6, dtype=np.float32), "one"))
    return model


def reference_outside_functions() -> onnx.ModelProto:
    """onnxruntime takes the value that is there."""
    model = built(node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]))
    model.graph.node[0].attribute[0].ref_attr_name = "other"
    return model


def simplified_layer_norm() -> onnx.ModelProto:
    """onnxruntime has it in the domain of ONNX's own operators."""
    norm = node("SimplifiedLayerNormalization", ["h", "one"], ["n"], epsilon=1e-6)
    model = built(node("Conv", ["x", "w"], ["h"]), norm, node("Relu", ["n"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(6, dtype=np.float32), "one"))
    return model


def one_sided_stft() -> onnx.ModelProto:
    """onnx 1.23 infers the size of a two-sided one, which does not fit the weight."""
    model = built(
        node("Conv", ["x", "w"], ["h"]),
        node("Reshape", ["h", "flat"], ["wave"]),
        node("STFT", ["wave", "step", "", "length"], ["waves"]),
        node("Transpose", ["waves"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["turned", "v"], ["y"]),
    )
    constants = {"flat": [0, -1], "step": 8, "length": 16}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((9, 4), np.float32), "v"))
    return model


@pytest.mark.parametrize(
    "model",
    [
        layer_norm_before_onnx_had_it,
        one_sided_stft,
        reference_outside_functions,
        simplified_layer_norm,
        sparse_constants,
        sparse_initializer,
        ir_3,
        no_graph_name,
        domain_in_full,
        domain_not_imported,
        initializer_twice,
        unsorted,
        unsorted_captures,
        initializer_and_input_are_outputs,
        constant_is_output,
        output_without_type,
        input_that_nobody_reads,
        strange_names,
        omitted_inputs_and_outputs,
        wrong_output_rank,
        batch_by_hand,
        wrong_inner_rank,
        wrong_shapes_in_branches,
    ],
)
def test_what_onnxruntime_accepts_loads(model: Callable[[], onnx.ModelProto]) -> None:
    assert_loads(model())


@pytest.mark.parametrize("as_file", [False, True])
def test_onnxruntime_never_sees_a_sparse_constant_in_a_function(as_file: bool, tmp_path: Path) -> None:
    """onnxruntime 1.31 inlines it into freed memory: about one session in a hundred crashed the process."""
    model = sparse_constants()
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    before = model.SerializeToString()
    given = with_dense_functions(path if as_file else model)
    assert isinstance(given, onnx.ModelProto)
    assert [item.name for item in given.functions[0].node[0].attribute] == ["value"]
    np.testing.assert_array_equal(run(given)[0], run(load_proto(model))[0])
    assert model.SerializeToString() == before


def test_other_models_reach_onnxruntime_as_they_are(tmp_path: Path) -> None:
    model = sparse_initializer()
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    assert with_dense_functions(model) is model
    assert with_dense_functions(path) is path
    (tmp_path / "empty.onnx").touch()
    assert with_dense_functions(tmp_path / "empty.onnx") == tmp_path / "empty.onnx"


def test_sorted_nodes_keep_their_order() -> None:
    model = built(node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["b"]), node("Add", ["a", "b"], ["y"]))
    assert load_proto(model).graph.node == model.graph.node


def test_a_file_that_is_compared_is_sorted_too(tmp_path: Path) -> None:
    onnx.save_model(unsorted(), tmp_path / "model.onnx")
    read = read_whole_onnx(tmp_path / "model.onnx")
    assert [each.op_type for each in read.graph.node] == ["Mul", "Conv", "Relu"]
    assert read.opset_import == unsorted().opset_import


def test_a_wrong_output_is_corrected_and_said(caplog: pytest.LogCaptureFixture) -> None:
    model = assert_loads(wrong_output_rank())
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [0, 4, 6, 6]
    assert "output y is declared [1, length], but is [N, 4, 6, 6]; corrected" in caplog.text


def test_a_batch_by_hand_is_free_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    model = assert_loads(batch_by_hand())
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert not model.graph.value_info
    assert "shapes of inner tensors are declared wrong (h is declared [1, 4, 6, 6]); they are not used" in caplog.text


def test_shapes_that_are_right_stay(caplog: pytest.LogCaptureFixture) -> None:
    """Names of sizes that onnx cannot infer stay too."""
    model = built(
        node("Conv", ["x", "w"], ["h"]), node("NonZero", ["h"], ["y"]), outputs=(info("y", [4, "found"], 7),), opset=21
    )
    model.graph.value_info.append(info("h", ["batch", 4, 6, 6]))
    loaded = load_proto(model)
    assert loaded.graph == model.graph
    assert not caplog.text


def test_an_input_without_a_shape_is_refused_by_name() -> None:
    model = built()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input x has no shape; export the model with the shapes of its inputs"):
        load_proto(model)


def test_nodes_in_a_circle_are_refused() -> None:
    model = built(node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w"], ["y"]))
    with pytest.raises(ModelError, match="is not a valid ONNX model"):
        load_proto(model)


def test_a_weight_with_too_few_bytes_is_refused_by_name() -> None:
    model = built()
    model.graph.initializer[0].dims[:] = [40, 30, 3, 3]
    with pytest.raises(ModelError, match=r"w \[40, 30, 3, 3\] has 432 bytes, not 43,200"):
        load_proto(model)
