"""New names: unused in the model, and the same on every run."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter.qdq.fragment import Names
from converter.qdq.weights import STORAGES, Storage
from converter.qdq.writer import emit
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.weights.rtn import Rtn
from tests.support.networks import images, network, quantize, random, run

X = images(8, 3, 8, 8)


def hostile() -> onnx.ModelProto:
    """Conv, GlobalAveragePool, Gemm. Nodes, tensors and constants have the names that the writer wants for its own."""
    constants: dict[str, NDArray[Any]] = {
        "w": random(6, 3, 3, 3) * np.float32(0.3),
        "w_scale": random(6, seed=1),
        "w_zero_point": np.zeros((), np.float32),
        "fc": random(6, 20),
        "fc_scale": random(20, seed=2),
        "x_zero_point": np.full((), 0.5, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "x_zero_point"], ["x_scale"], "x_quantize"),
        node("Conv", ["x_scale", "w", "w_scale"], ["x_dequantized"], "w_dequantize", pads=[1] * 4),
        node("Relu", ["x_dequantized"], ["x_quantized"], "w_cast"),
        node("GlobalAveragePool", ["x_quantized"], ["pooled"], "x_scale_quantize"),
        node("Flatten", ["pooled"], ["w_dequantized"], "fc_cast"),
        node("Gemm", ["w_dequantized", "fc", "fc_scale"], ["w_int8"], "fc_dequantize"),
        node("Sub", ["w_int8", "w_zero_point"], ["fc_int4"], "x_dequantize"),
    ]
    return network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"fc_int4": ["N", 20]})


def quantized(storage: Storage, *, ranges: bool) -> onnx.ModelProto:
    block_size = None if ranges else 16  # block scales have no integer kernel
    model: Model = quantize(hostile(), Rtn(bits=4, block_size=block_size), X, ranges=ranges)
    return emit(model, storage)


@pytest.mark.parametrize("ranges", [True, False], ids=["integer", "weight_only"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_model_may_use_names_that_the_writer_wants(storage: Storage, ranges: bool) -> None:
    proto = quantized(storage, ranges=ranges)
    onnx.checker.check_model(proto, full_check=True)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    tensors = [name for node in proto.graph.node for name in node.output] + [t.name for t in proto.graph.initializer]
    assert len(set(tensors)) == len(tensors)
    assert sqnr_db(run(hostile(), X)[0], run(proto, X)[0]) > 15  # 4 bits to the nearest; a mixed-up tensor gives 0 dB


def test_names_are_the_same_on_every_run_and_can_be_read() -> None:
    first, second = (quantized("cast", ranges=True) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    written = {name for node in first.graph.node for name in node.output}
    assert {"x_scale_quantized", "x_scale_dequantized", "w_dequantized_1", "w_int8_1"} <= written


def test_tensors_and_nodes_are_numbered_separately() -> None:
    names = Names(hostile().graph)
    assert [names.tensor("x_scale"), names.tensor("x_scale"), names.tensor("new")] == ["x_scale_1", "x_scale_2", "new"]
    assert [names.node("x_scale"), names.node("w_cast"), names.node("w_cast")] == ["x_scale", "w_cast_1", "w_cast_2"]
