"""Loading an old file changes nothing: for every operator whose definition changes between opsets 7 and 21, a small net
around it computes in onnxruntime what the file computes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.model_io.load import load_proto
from converter.model_io.upgrade import upgrade_opset
from passes.errors import ModelError

node = helper.make_node
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(6, 3, 3, 3)).astype(np.float32)
X = RANDOM.normal(size=(2, 3, 8, 8)).astype(np.float32)
SCALE = np.abs(RANDOM.normal(size=6)).astype(np.float32) + np.float32(0.5)
BIAS = RANDOM.normal(size=6).astype(np.float32)
MATRIX = RANDOM.normal(size=(5, 384)).astype(np.float32)
TRANSPOSED = RANDOM.normal(size=(6, 4, 3, 3)).astype(np.float32)
PLACES = RANDOM.uniform(-1, 1, (2, 5, 5, 2)).astype(np.float32)
POINT = np.zeros((2, 1, 8, 8), np.int64)

Nodes = list[NodeProto]
Constants = dict[str, NDArray[np.generic]]
CASES: list[tuple[str, Iterable[int], Nodes, Constants]] = []


def case(name: str, first: int, last: int, nodes: Nodes | NodeProto, **constants: object) -> None:
    """Nodes from h [2, 6, 8, 8] to y, in opsets `first` to `last`."""
    arrays = {key: np.asarray(value) for key, value in constants.items()}
    CASES.append((name, range(first, last + 1), nodes if isinstance(nodes, list) else [nodes], arrays))


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def one(op: str, *others: str, **attributes: Any) -> NodeProto:
    return node(op, ["h", *others], ["y"], **attributes)


def fill() -> None:
    case("Add", 7, 20, one("Add", "b"), b=BIAS.reshape(6, 1, 1))
    for axis in (None, 0, 1, 2, 3):
        given = {} if axis is None else {"axis": axis}
        case(f"Softmax {axis}", 7, 20, one("Softmax", **given))
        case(f"LogSoftmax {axis}", 7, 20, one("LogSoftmax", **given))
        case(f"Hardmax {axis}", 7, 20, one("Hardmax", **given))
    case("Softmax -2", 11, 20, one("Softmax", axis=-2))
    statistics = {"s": SCALE, "b": BIAS, "m": BIAS / 2, "v": SCALE}
    case("BatchNormalization", 7, 20, one("BatchNormalization", "s", "b", "m", "v", epsilon=0.1), **statistics)
    case("Clip", 7, 10, one("Clip", min=-0.5, max=1.0))
    case("Clip low", 7, 10, one("Clip", min=0.0))
    case("Clip none", 7, 10, one("Clip"))
    case("Clip high", 11, 20, one("Clip", "", "high"), high=np.float32(1))
    case("Dropout", 7, 11, one("Dropout", ratio=0.4))
    masked = node("Dropout", ["h"], ["d", "mask"])
    case("Dropout mask", 7, 9, [masked, node("Sub", ["d", "mask"], ["y"])])
    mask = [masked, node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT), node("Sub", ["d", "m"], ["y"])]
    case("Dropout mask 10", 10, 20, mask)
    case("Dropout 12", 12, 20, one("Dropout"))
    for mode, value in (("constant", {"value": 1.5}), ("reflect", {}), ("edge", {})):
        case(f"Pad {mode}", 7, 10, one("Pad", pads=[0, 0, 1, 2, 0, 0, 1, 0], mode=mode, **value))
    case("Pad negative", 7, 10, one("Pad", pads=[0, 0, -1, 2, 0, 0, 1, -2]))
    case("Pad 11", 11, 20, one("Pad", "pads", "value"), pads=[0, 0, 1, 2, 0, 0, 1, 0], value=np.float32(2))
    case("Slice", 7, 9, one("Slice", starts=[1, -3], ends=[5, 1000], axes=[1, 2]))
    case("Slice first axes", 7, 9, one("Slice", starts=[0, 1], ends=[2, -1]))
    case("Slice 10", 10, 20, one("Slice", "s", "e", "a", "st"), s=[-1], e=[-1000], a=[2], st=[-2])
    parts = node("Concat", ["q", "p"], ["y"], axis=1)
    case("Split sizes", 7, 12, [node("Split", ["h"], ["p", "q"], axis=1, split=[2, 4]), parts])
    case("Split equal", 7, 17, [node("Split", ["h"], ["p", "q"], axis=1), parts])
    case("Split default", 7, 17, [node("Split", ["h"], ["p", "q"]), parts])
    case("Split 13", 13, 20, [node("Split", ["h", "s"], ["p", "q"], axis=1), parts], s=[2, 4])
    longer = node("Unsqueeze", ["h"], ["u"], axes=[0, 3])
    case("Squeeze", 7, 12, [longer, node("Squeeze", ["u"], ["y"], axes=[3])])
    case("Squeeze all", 7, 12, [longer, node("Squeeze", ["u"], ["y"])])
    for op in ("Max", "Min", "Mean", "Sum", "L1", "L2", "SumSquare", "LogSumExp"):
        last = 12 if op == "Sum" else 17
        case(f"Reduce{op}", 7, last, one(f"Reduce{op}", axes=[2, 3], keepdims=0))
        case(f"Reduce{op} all", 7, last, one(f"Reduce{op}"))
    case("ReduceMean negative", 11, 17, one("ReduceMean", axes=[-1]))
    case("ReduceSum 13", 13, 20, one("ReduceSum", "axes"), axes=[1])
    case("ReduceSum of nothing", 13, 20, one("ReduceSum", noop_with_empty_axes=1))
    case("TopK", 7, 9, node("TopK", ["h"], ["y", "indices"], k=3, axis=1))
    case("TopK 10", 10, 20, node("TopK", ["h", "k"], ["y", "indices"], axis=3), k=[2])
    for mode in ("nearest", "linear"):
        for sizes in ((1, 1, 2, 2), (1, 1, 1.7, 1.7), (1, 1, 2.5, 3)):
            scales, after = floats(*sizes), node("Relu", ["u"], ["y"])
            by_input = [node("Upsample", ["h", "s"], ["u"], mode=mode), after]
            stored = node("Constant", [], ["s"], value=numpy_helper.from_array(scales))
            case(f"Upsample {mode} {sizes}", 7, 8, [node("Upsample", ["h"], ["u"], mode=mode, scales=scales), after])
            case(f"Upsample 9 {mode} {sizes}", 9, 9, by_input, s=scales)
            case(f"Upsample 9 of a Constant {mode} {sizes}", 9, 9, [stored, *by_input])
        for sizes in ((1, 1, 2, 2), (1, 1, 1.7, 1.7), (1, 1, 0.5, 0.5), (1, 1, 0.4, 0.7), (1, 1, 0.6, 1.7)):
            resize, scales = node("Resize", ["h", "s"], ["u"], mode=mode), floats(*sizes)
            computed = node("Mul", ["half", "two"], ["s"])
            case(f"Resize 10 {mode} {sizes}", 10, 10, [resize, after], s=scales)
            case(
                f"Resize 10 computed {mode} {sizes}", 10, 10, [computed, resize, after], half=scales / 2, two=floats(2)
            )
        for transform in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
            how = {"mode": mode, "coordinate_transformation_mode": transform, "nearest_mode": "ceil"}
            case(
                f"Resize 11 {mode} {transform}",
                11,
                12,
                one("Resize", "roi", "s", **how),
                s=floats(1, 1, 0.5, 1.7),
                roi=floats(),
            )
            case(f"Resize 13 {mode} {transform}", 13, 20, one("Resize", "", "s", **how), s=floats(1, 1, 0.5, 1.7))
    flat = node("Flatten", ["h"], ["flat"])
    gemm = node("Gemm", ["flat", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)
    case("Gemm", 7, 20, [flat, gemm], w=MATRIX, b=BIAS[:5])
    case("PRelu", 7, 20, one("PRelu", "slope"), slope=BIAS.reshape(6, 1, 1))
    for kind in (TensorProto.INT32, TensorProto.INT8, TensorProto.BOOL):
        there = node("Cast", ["h"], ["c"], to=kind)
        case(f"Cast {kind}", 7, 20, [there, node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)])
    case("Reshape", 7, 20, one("Reshape", "to"), to=[0, -1, 4])
    case("Flatten 0", 7, 20, one("Flatten", axis=0))
    window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2]}
    for counted in (0, 1):
        padded = window | {"pads": [1, 1, 1, 1], "count_include_pad": counted}
        case(f"AveragePool {counted}", 7, 20, one("AveragePool", **padded))
        case(f"AveragePool ceil {counted}", 10, 20, one("AveragePool", ceil_mode=1, **padded))
    for op in ("AveragePool", "MaxPool", "LpPool"):
        case(f"{op} SAME_UPPER", 7, 20, one(op, auto_pad="SAME_UPPER", **window))
        case(f"{op} SAME_LOWER", 7, 20, one(op, auto_pad="SAME_LOWER", **window))
    case("MaxPool indices", 8, 20, node("MaxPool", ["h"], ["y", "indices"], **window))
    case("LpPool", 7, 20, one("LpPool", p=3, **window))
    case("GroupNormalization 18", 18, 20, one("GroupNormalization", "s", "b", num_groups=3), s=SCALE[:3], b=BIAS[:3])
    case("GroupNormalization", 21, 21, one("GroupNormalization", "s", "b", num_groups=3), s=SCALE, b=BIAS)
    case("InstanceNormalization", 7, 20, one("InstanceNormalization", "s", "b"), s=SCALE, b=BIAS)
    case("LayerNormalization", 17, 20, one("LayerNormalization", "s"), s=RANDOM.normal(size=8).astype(np.float32))
    case("MeanVarianceNormalization", 9, 21, one("MeanVarianceNormalization"))
    case("LRN", 7, 20, one("LRN", size=3))
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        steps = [node("Reshape", ["h", "to"], ["r"]), node("Transpose", ["r"], ["q"], perm=[1, 0, 2])]
        weights = {"w": (2, gates * 4, 64), "r_": (2, gates * 4, 4), "b": (2, 2 * gates * 4)}
        drawn = {key: RANDOM.normal(0, 0.2, shape).astype(np.float32) for key, shape in weights.items()}
        cell = node(op, ["q", "w", "r_", "b"], ["", "y"], hidden_size=4, direction="bidirectional")
        case(op, 7, 20, [*steps, cell], to=[-1, 6, 64], **drawn)
    case("Gather", 7, 20, one("Gather", "at", axis=1), at=[2, 0])
    case("Scatter", 9, 10, one("Scatter", "at", "new", axis=1), at=POINT, new=POINT.astype(np.float32))
    case("ScatterElements", 11, 20, one("ScatterElements", "at", "new", axis=1), at=POINT, new=POINT.astype(np.float32))
    case("ScatterND", 11, 20, one("ScatterND", "at", "new"), at=[[0]], new=np.ones((1, 6, 8, 8), np.float32))
    case("Shape", 7, 20, [node("Shape", ["h"], ["s"]), node("Cast", ["s"], ["y"], to=TensorProto.FLOAT)])
    case("Sum", 7, 20, one("Sum", "h", "h"))
    case("Max", 8, 20, one("Max", "zero"), zero=np.zeros((6, 1, 1), np.float32))
    case("Pow", 7, 20, one("Pow", "two"), two=np.float32(2))
    case("ArgMax", 7, 20, [node("ArgMax", ["h"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)])
    case(
        "DepthToSpace",
        7,
        20,
        [node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]), node("DepthToSpace", ["t"], ["y"], blocksize=2)],
    )
    case("GridSample", 16, 20, one("GridSample", "grid"), grid=PLACES)
    case("GridSample bicubic", 16, 19, one("GridSample", "grid", mode="bicubic", padding_mode="border"), grid=PLACES)
    rois = {"rois": floats(0, 0, 4, 4).reshape(1, 4), "of": [1]}
    case("RoiAlign", 10, 20, one("RoiAlign", "rois", "of", output_height=2, output_width=2, sampling_ratio=2), **rois)
    case("GatherND", 11, 20, one("GatherND", "at"), at=[[0, 1], [1, 2]])
    quantize = node("QuantizeLinear", ["h", "s", "z"], ["q"])
    case(
        "QuantizeLinear",
        10,
        20,
        [quantize, node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        s=np.float32(0.1),
        z=np.uint8(128),
    )
    strided = {"strides": [2, 2], "auto_pad": "SAME_LOWER"}
    case("ConvTranspose", 7, 20, one("ConvTranspose", "w", **strided), w=TRANSPOSED)
    condition = [
        node("Shape", ["h"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Cast", ["n"], ["several"], to=TensorProto.BOOL),
    ]
    inner = helper.make_tensor_value_info
    branches = {
        "then_branch": helper.make_graph(
            [node("Softmax", ["h"], ["t0"], axis=1), node("Unsqueeze", ["t0"], ["t"], axes=[0])],
            "then",
            [],
            [inner("t", TensorProto.FLOAT, None)],
        ),
        "else_branch": helper.make_graph(
            [node("Unsqueeze", ["h"], ["e"], axes=[0])], "else", [], [inner("e", TensorProto.FLOAT, None)]
        ),
    }
    case("If", 7, 12, [*condition, node("If", ["several"], ["y"], **branches)], zero=np.int64(0))


fill()


def built(opset: int, nodes: Nodes, constants: Constants) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node("Conv", ["x", "conv.weight"], ["h"], name="conv", pads=[1, 1, 1, 1]), *nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(WEIGHT, "conv.weight")]
        + [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(None, {"x": X})
    return outputs[0]


@pytest.mark.parametrize(("opsets", "nodes", "constants"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_loading_changes_nothing(opsets: Iterable[int], nodes: Nodes, constants: Constants) -> None:
    opsets = list(opsets)
    for opset in sorted({opsets[0], opsets[-1], *({9, 12, 17} & set(opsets))}):
        model = built(opset, nodes, constants)
        expected, result = run(model), run(load_proto(model))
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() <= 2e-6 * np.abs(expected).max(), f"opset {opset}"


def test_nodes_that_mean_the_same_are_not_touched() -> None:
    """So names, docs and metadata of nodes and values survive. A converted node keeps its own."""
    model = built(9, [node("Softmax", ["h"], ["s"], name="soft", axis=1, doc_string="note"), one("Relu")], {})
    del model.graph.node[2:]
    model.graph.node.append(node("Relu", ["s"], ["y"], name="last", doc_string="the last"))
    model.graph.node[0].metadata_props.add(key="module", value="stem")
    before = [NodeProto.FromString(each.SerializeToString()) for each in model.graph.node]
    loaded = {each.name: each for each in load_proto(model).graph.node if each.name}
    assert loaded["conv"] == before[0]
    assert loaded["last"] == before[2]
    assert loaded["soft"].doc_string == "note"
    assert loaded["soft"].op_type == "Softmax"


def test_weights_above_protobufs_limit_do_not_pass_through_the_converter() -> None:
    """Nodes are converted one by one, without the initializers that they read."""
    model = built(9, [one("Softmax", axis=1)], {})
    stored = model.graph.initializer[0].raw_data
    upgraded = upgrade_opset(model)
    assert upgraded is model
    assert upgraded.graph.initializer[0].raw_data == stored


def test_a_batch_normalization_that_trains_is_refused() -> None:
    """onnxruntime computes it with the statistics of the batch, mixed with the stored ones."""
    names = ["s", "b", "m", "v"]
    trains = node("BatchNormalization", ["h", *names], ["y", "mean", "var", "saved_mean", "saved_var"], name="norm")
    with pytest.raises(ModelError, match=r"norm is in training mode.*call model.eval\(\)"):
        load_proto(built(9, [trains], dict.fromkeys(names, SCALE)))


def test_an_old_scan_is_refused_by_name() -> None:
    body = helper.make_graph(
        [node("Relu", ["a"], ["r"])],
        "body",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
    )
    scan = node("Scan", ["", "h"], ["y"], name="scan", body=body, num_scan_inputs=1)
    with pytest.raises(ModelError, match="opset 8 cannot be upgraded to 21: Scan 'scan': the bodies of Scan"):
        upgrade_opset(built(8, [scan], {}))
