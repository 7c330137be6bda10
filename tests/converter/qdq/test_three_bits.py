"""3-bit codes in 3 bits: the same integers and kernels, fewer bytes, and inspect shows them."""

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from converter import Recipe, Result, convert
from converter.inspection.inspect import inspect
from converter.qdq.fragment import Fragment, Names
from converter.qdq.three_bits import join_three_bits, packs_three_bits
from converter.qdq.weights import Storage
from passes.activations.activation_ranges import ActivationRanges
from passes.graph.normalise.normalise import Normalise
from passes.numerics.grid import Codes
from passes.weights.gptq import Gptq
from tests.support.networks import images, run

WIDTH = 32  # 32 x 32 x 3 x 3 codes are enough to be packed


def network() -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    x = gs.Variable("input", np.float32, ["n", 3, 8, 8])
    tensors = [x, *(gs.Variable(name, np.float32, ["n", WIDTH, 8, 8]) for name in ("a", "b", "c"))]
    shapes = [(WIDTH, 3, 3, 3), (WIDTH, WIDTH, 3, 3), (WIDTH, WIDTH, 3, 3)]
    nodes = [
        gs.Node(
            "Conv",
            f"conv{index}",
            {"pads": [1, 1, 1, 1]},
            [tensors[index], gs.Constant(f"w{index}", draw.normal(0, 0.1, shape).astype(np.float32))],
            [tensors[index + 1]],
        )
        for index, shape in enumerate(shapes)
    ]
    graph = gs.Graph(nodes, inputs=[x], outputs=[tensors[-1]], opset=21)
    exported: onnx.ModelProto = gs.export_onnx(graph)
    return exported


def converted(storage: Storage, target: str = "cpu") -> Result:
    recipe = Recipe("mine", "", (Normalise(), ActivationRanges(), Gptq(bits=3)), storage=storage)
    return convert(network(), images(16, 3, 8, 8), recipe=recipe, target=target)


@pytest.mark.parametrize("shape", [(8,), (2, 4), (3, 8, 5, 1)])
def test_the_joined_parts_are_the_codes(shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(-4, 4, shape).astype(np.int8)
    empty = helper.make_graph([], "g", [], [helper.make_tensor_value_info("out", TensorProto.INT8, shape)])
    fragment = Fragment(Names(empty))
    joined = join_three_bits(fragment, "w", codes)
    fragment.node_into("Identity", "end", [joined], "out")
    empty.node.extend(fragment.nodes)
    empty.initializer.extend(fragment.initializers)
    model = helper.make_model(empty, opset_imports=[helper.make_opsetid("", 25)])
    onnx.checker.check_model(model, full_check=True)
    (actual,) = cast(list[Codes], ReferenceEvaluator(model).run(None, {}))
    np.testing.assert_array_equal(actual, codes)


def test_only_weights_that_become_smaller_are_packed() -> None:
    assert not packs_three_bits(32 * 27)  # the nodes would take more than they save
    assert not packs_three_bits(3333 * 3)  # signs go by fours
    assert packs_three_bits(WIDTH * WIDTH * 9)


def test_a_packed_file_computes_what_the_others_do_in_fewer_bytes() -> None:
    packed, plain = converted("packed"), converted("cast")
    unseen = images(8, 3, 8, 8, seed=9)
    np.testing.assert_array_equal(run(packed.model, unseen)[0], run(plain.model, unseen)[0])
    assert packed.model.ByteSize() < plain.model.ByteSize()
    assert [layer.stored_bits for layer in packed.layers] == [4, 3, 3]
    assert sum(tensor.name == "sign_table" for tensor in packed.model.graph.initializer) == 1


def test_inspect_reads_it_and_onnxruntime_fuses_it(tmp_path: Path) -> None:
    result = converted("packed")
    result.save(tmp_path / "packed.onnx")
    layers = inspect(tmp_path / "packed.onnx").layers
    assert [layer.storage for layer in layers] == ["int4 cast", "int3 packed", "int3 packed"]
    assert all(layer.fused and layer.weight_bits == 3 for layer in layers)
    assert layers[1].bytes == WIDTH * WIDTH * 9 * 3 // 8 + WIDTH * (4 + 1)  # codes, scales, zero points
    bare = dataclasses.replace(result, model=onnx.ModelProto.FromString(result.model.SerializeToString()))
    bare.model.ClearField("metadata_props")
    bare.save(tmp_path / "bare.onnx")
    assert inspect(tmp_path / "bare.onnx").layers[1].weight_bits == 3


@pytest.mark.parametrize(("target", "bits"), [("generic", 8), ("web", 3)])
def test_a_target_without_two_bits_gets_its_own_form(target: str, bits: int) -> None:
    assert converted("packed", target).layers[1].stored_bits == bits
