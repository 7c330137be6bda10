"""Small layers are stored as int8 where unpacking takes more bytes than packing saves, and compute the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from converter.qdq.layer_forms import bits_in_file
from converter.qdq.weights import Storage
from converter.qdq.writer import emit
from passes.weights.rtn import Rtn
from tests.support.networks import images, initializers, quantize, run, wide

X = images(16, 3, 12, 12)


def graph_bytes(model: onnx.ModelProto) -> int:
    return len(model.graph.SerializeToString())


@pytest.mark.parametrize("storage", ["cast", "packed", "dequantize"])
@pytest.mark.parametrize("two_level", [False, True])
def test_the_smallest_file_computes_the_same(storage: Storage, two_level: bool) -> None:
    solver = Rtn(bits=4, block_size=8, two_level=True, fewest_blocks=0) if two_level else Rtn(bits=4)
    model = quantize(wide(), solver, X, ranges=True)
    packed, smallest, plain = emit(model, storage), emit(model, storage, smallest=True), emit(model, "int8")
    assert graph_bytes(smallest) <= min(graph_bytes(packed), graph_bytes(plain))
    np.testing.assert_allclose(run(smallest, X)[0], run(plain, X)[0], rtol=0, atol=1e-5)
    for name, layer in model.layers().items():
        stored = bits_in_file(model, layer, storage, smallest=True)
        types = {tensor.data_type for title, tensor in initializers(smallest).items() if title.startswith(layer.weight)}
        assert (TensorProto.INT4 in types) == (stored == 4), name
    assert bits_in_file(model, model.layers()["large"], storage, smallest=True) == 4
