"""The check after every pass finds each kind of broken model."""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.errors import QuantizationError
from passes.graph.check import check
from passes.ir.model import Model, Quantized
from passes.numerics.weight_scale_search import absmax_grid
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES


def quantized_model() -> Model:
    """Conv -> Relu -> ConvTranspose -> Flatten -> Gemm, every layer on a grid of 4 bits."""
    nodes = [
        node("Conv", ["x", "conv.w", "conv.b"], ["a"], name="conv", group=2),
        node("Relu", ["a"], ["b"], name="relu"),
        node("ConvTranspose", ["b", "up.w"], ["c"], name="up", strides=[2, 2]),
        node("Flatten", ["c"], ["d"], name="flatten"),
        node("Gemm", ["d", "fc.w"], ["y"], name="fc", transB=1),
    ]
    constants = {
        "conv.w": array(4, 1, 3, 3),
        "conv.b": array(4),
        "up.w": array(4, 3, 2, 2),
        "fc.w": array(5, 3 * 4 * 4),
    }
    model = Model(gs.import_onnx(build(nodes, constants, (1, 2, 4, 4))), RULES)
    for layer in model.layers().values():
        weight = model.weight(layer)
        grid = absmax_grid(weight, 4)
        codes = grid.codes(weight)
        model.quantized[layer.name] = Quantized(codes, grid, 20.0)
        model.write(layer, grid.values(codes), None)
    return model


def unnamed(model: Model) -> None:
    model.node("relu").name = ""


def same_name(model: Model) -> None:
    model.node("flatten").name = "relu"


def written_twice(model: Model) -> None:
    model.node("up").outputs[0].name = "b"


def input_written(model: Model) -> None:
    model.node("relu").outputs[0].name = "x"


def dangling(model: Model) -> None:
    model.node("up").inputs[0] = gs.Variable("ghost", np.float32)


def removed(model: Model) -> None:
    model.graph.nodes.remove(model.node("relu"))


def output_unwritten(model: Model) -> None:
    model.graph.outputs.append(gs.Variable("z", np.float32))


def layer_gone(model: Model) -> None:
    model.node("conv").name = "other"


def code_out_of_range(model: Model) -> None:
    held = model.quantized["up"]
    codes = held.codes.copy()
    codes[0, 0, 0] = 8
    model.quantized["up"] = Quantized(codes, held.grid, held.sqnr_db)
    model.write(model.layers()["up"], held.grid.values(codes), None)


def code_below_range(model: Model) -> None:
    held = model.quantized["up"]
    codes = held.codes.copy()
    codes[0, 0, 0] = -9
    model.quantized["up"] = Quantized(codes, held.grid, held.sqnr_db)
    model.write(model.layers()["up"], held.grid.values(codes), None)


def weight_moved(model: Model) -> None:
    weight = model.node("fc").inputs[1]
    values = weight.values.copy()
    values[2, 3] = np.nextafter(values[2, 3], np.float32(np.inf))  # one bit off
    weight.values = values


def code_moved(model: Model) -> None:
    held = model.quantized["conv"]
    codes = held.codes.copy()
    codes[0, 0, 0] += -1 if codes[0, 0, 0] > 0 else 1
    model.quantized["conv"] = Quantized(codes, held.grid, held.sqnr_db)


def weight_nan(model: Model) -> None:
    weight = model.node("conv").inputs[1]
    weight.values = np.full_like(weight.values, np.nan)


def weight_flipped(model: Model) -> None:
    """Write the kernel of a ConvTranspose in the wrong order."""
    weight = model.node("up").inputs[1]
    weight.values = np.ascontiguousarray(weight.values[..., ::-1])


def weight_shared(model: Model) -> None:
    """Let another layer of the same shape read the weight of a quantized layer, and rewrite it."""
    model.node("conv").inputs[1].values = model.node("conv").inputs[1].values * np.float32(0.5)


VIOLATIONS: list[tuple[Callable[[Model], None], str]] = [
    (unnamed, "a Relu node has no name"),
    (same_name, "two nodes are named 'relu'"),
    (written_twice, "two nodes write 'b'"),
    (input_written, "two nodes write 'x'"),
    (dangling, "up reads 'ghost', which nothing writes"),
    (removed, "up reads 'b', which nothing writes"),
    (output_unwritten, "nothing writes the output 'z'"),
    (layer_gone, "quantized layer conv is no longer in the graph"),
    (code_out_of_range, "up has codes outside -8..7"),
    (code_below_range, "up has codes outside -8..7"),
    (weight_moved, "the weight of fc differs from its codes on their grid"),
    (code_moved, "the weight of conv differs from its codes on their grid"),
    (weight_nan, "the weight of conv differs from its codes on their grid"),
    (weight_flipped, "the weight of up differs from its codes on their grid"),
    (weight_shared, "the weight of conv differs from its codes on their grid"),
]


def test_a_sound_model_passes() -> None:
    check(quantized_model(), "nothing")


def test_a_model_without_quantized_layers_passes() -> None:
    model = quantized_model()
    model.quantized.clear()
    check(model, "nothing")


@pytest.mark.parametrize(("damage", "message"), VIOLATIONS, ids=[damage.__name__ for damage, _ in VIOLATIONS])
def test_violation_is_found(damage: Callable[[Model], None], message: str) -> None:
    model = quantized_model()
    damage(model)
    with pytest.raises(QuantizationError) as caught:
        check(model, "smoothquant")
    assert str(caught.value) == f"after smoothquant: {message}; please report this with the model"


def test_two_constants_of_one_name_are_found() -> None:
    """onnx-graphsurgeon exports only one of them."""
    model = quantized_model()
    model.node("fc").inputs.append(gs.Constant("conv.b", np.zeros(5, np.float32)))
    with pytest.raises(QuantizationError, match=r"after gptq: two constants are named 'conv\.b'"):
        check(model, "gptq")


def test_one_constant_that_two_nodes_read_is_fine() -> None:
    model = quantized_model()
    model.node("up").inputs.append(model.node("conv").inputs[2])
    check(model, "gptq")


def test_an_optional_input_that_is_left_out_is_not_dangling() -> None:
    model = quantized_model()
    model.node("fc").inputs.append(gs.Variable.empty())
    check(model, "nothing")
