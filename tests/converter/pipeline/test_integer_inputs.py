"""Models whose only input is integers: token ids, and uint8 images that the graph scales itself."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter import convert
from passes.errors import DataError
from passes.numerics.error import sqnr_db
from tests.support.models import make_model
from tests.support.networks import random, run

node = helper.make_node
RECIPES = ["int8", "int8-gptq", "int4", "int4-weight-only"]
FLOOR = {"int8": 25.0, "int8-gptq": 25.0, "int4": 12.0, "int4-weight-only": 12.0}
IDS = np.random.default_rng(0).integers(0, 50, (32, 24))
PIXELS = np.random.default_rng(1).integers(0, 256, (32, 12, 12, 3)).astype(np.uint8)


def typed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.elem_type = kind
    return model


def tokens(kind: int = TensorProto.INT64) -> onnx.ModelProto:
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
        node("Conv", ["t", "w0"], ["c"], name="conv"),
        node("Relu", ["c"], ["r"]),
        node("ReduceMax", ["r", "axes"], ["m"], keepdims=0),
        node("MatMul", ["m", "w1"], ["y"], name="fc"),
    ]
    weights: dict[str, np.ndarray] = {
        "table": random(50, 16),
        "w0": random(32, 16, 3) / 7,
        "w1": random(32, 8),
        "axes": np.array([2]),
    }
    return typed(make_model(nodes, weights, inputs={"ids": ["n", 24]}, outputs={"y": ["n", 8]}, opset=18), kind)


def pixels() -> onnx.ModelProto:
    nodes = [
        node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "k"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w0"], ["c"], name="conv"),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["v"]),
        node("MatMul", ["v", "w1"], ["y"], name="fc"),
    ]
    weights: dict[str, np.ndarray] = {
        "k": np.array(1 / 255, np.float32),
        "w0": random(32, 3, 3, 3) / 5,
        "w1": random(32, 8),
    }
    model = make_model(nodes, weights, inputs={"image": ["n", 12, 12, 3]}, outputs={"y": ["n", 8]}, opset=18)
    return typed(model, TensorProto.UINT8)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("model", "data"), [(tokens(), {"ids": IDS}), (pixels(), {"image": PIXELS})], ids=["ids", "pixels"]
)
def test_a_model_of_integers_is_converted(model: onnx.ModelProto, data: dict[str, np.ndarray], recipe: str) -> None:
    result = convert(model, data, recipe=recipe)
    assert all(layer.bits < 32 for layer in result.layers)
    assert result.model.graph.input[0].type == model.graph.input[0].type
    expected, found = run(model, data)[0], run(result.model, data)[0]
    assert sqnr_db(expected, found) > FLOOR[recipe]


def test_integers_of_another_width_are_cast_where_every_value_fits() -> None:
    """Bytes, and numpy's int64, for an input of int32: the same file as from int32."""
    model = tokens(TensorProto.INT32)
    exact, *others = (convert(model, {"ids": IDS.astype(kind)}).model for kind in (np.int32, np.uint8, np.int64))
    assert all(exact.graph == other.graph for other in others)
    too_large = IDS.astype(np.int64)
    too_large[3, 1] = 2**31
    with pytest.raises(
        DataError, match=r"ids\[3\] holds 2147483648, and the model's input 'ids' int32 .* takes -2147483648"
    ):
        convert(model, {"ids": too_large})
