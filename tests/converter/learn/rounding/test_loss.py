"""Losses of a block, and how much a network depends on the channels of its tensors."""

from typing import Any

import numpy as np
import pytest
from onnx import helper

torch = pytest.importorskip("torch")

from converter.learn.graph.program import Program  # noqa: E402
from converter.learn.rounding.loss import BlockLoss, channel_axes, output_importance  # noqa: E402
from converter.learn.rounding.samples import Tensors  # noqa: E402
from passes.errors import QuantizationError  # noqa: E402
from tests.support.networks import conv, network, prepared, random  # noqa: E402

TARGET: Tensors = {"y": torch.from_numpy(random(16, 4, 5, 5))}


def test_the_error_is_relative_to_the_variance() -> None:
    loss = BlockLoss("error", TARGET)
    other = {"y": TARGET["y"] + 0.1}
    expected = 0.01 / float(TARGET["y"].var(dim=(0, 2, 3), unbiased=False).mean())
    assert float(loss(other, TARGET)) == pytest.approx(expected, rel=1e-4)
    assert float(BlockLoss("error", {"y": 3 * TARGET["y"]})({"y": 3 * other["y"]}, {"y": 3 * TARGET["y"]})) == (
        pytest.approx(expected, rel=1e-4)
    )


def test_a_cosine_does_not_depend_on_the_size() -> None:
    loss = BlockLoss("cosine", TARGET)
    assert float(loss({"y": 2 * TARGET["y"]}, TARGET)) == pytest.approx(0, abs=1e-5)
    assert float(loss({"y": -TARGET["y"]}, TARGET)) == pytest.approx(2, abs=1e-5)


def test_channels_count_as_much_as_they_matter() -> None:
    importance = {"y": torch.tensor([4.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1, 1)}
    loss = BlockLoss("network", TARGET, importance)
    only_last, only_first = ({"y": TARGET["y"].clone()} for _ in range(2))
    only_last["y"][:, 1:] += 1
    only_first["y"][:, 0] += 1
    assert float(loss(only_last, TARGET)) == 0
    assert float(loss(only_first, TARGET)) > 0


def test_importance_is_the_squared_gradient_of_the_outputs() -> None:
    """Two 1x1 convolutions. A channel between them matters by the sum of its squared weights in the second."""
    constants: dict[str, Any] = {}
    nodes = [conv(constants, "a", "x", "y", (6, 3, 1, 1)), conv(constants, "b", "y", "z", (4, 6, 1, 1))]
    proto = network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"z": ["N", 4, 8, 8]})
    program = Program(prepared(proto).graph)
    batches = [{"x": torch.from_numpy(random(16, 3, 8, 8, seed=seed))} for seed in range(2)]
    found = output_importance(program, batches, {"y"}, torch.Generator().manual_seed(0))["y"]
    expected = np.square(constants["b.weight"][:, :, 0, 0]).sum(0)
    assert found.shape == (1, 6, 1, 1)
    np.testing.assert_allclose(found.flatten().numpy(), expected / expected.mean(), rtol=0.2)


def test_outputs_that_do_not_vary_are_left_out() -> None:
    """One output is constant on the images. The other decides."""
    constants: dict[str, Any] = {"none": np.zeros((), np.float32)}
    nodes = [
        conv(constants, "a", "x", "y", (6, 3, 1, 1)),
        conv(constants, "b", "y", "z", (4, 6, 1, 1)),
        helper.make_node("Mul", ["z", "none"], ["constant"], "mul"),
    ]
    shape: list[int | str] = ["N", 4, 8, 8]
    inputs: dict[str, list[int | str]] = {"x": ["N", 3, 8, 8]}
    outputs = {"z": shape, "constant": shape}
    program = Program(prepared(network(nodes, constants, inputs, outputs)).graph)
    batch = {"x": torch.from_numpy(random(16, 3, 8, 8))}
    found = output_importance(program, [batch], {"y"}, torch.Generator().manual_seed(0))["y"]
    assert torch.isfinite(found).all()
    only_constant = Program(prepared(network(nodes, constants, inputs, {"constant": shape})).graph)
    with pytest.raises(QuantizationError, match="loss='network' needs an output that varies"):
        output_importance(only_constant, [batch], {"y"}, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (3, 1, 3)])
def test_channels_of_convolutions_are_on_axis_1(kernel: tuple[int, ...]) -> None:
    """Two convolutions of any rank with a Relu between. Only channel 2 of the first matters to the second."""
    constants: dict[str, Any] = {}
    nodes = [
        conv(constants, "a", "x", "r", (6, 3, *kernel), pads=[0, 0] * len(kernel)),
        helper.make_node("Relu", ["r"], ["y"], "relu"),
        conv(constants, "b", "y", "z", (4, 6, *kernel), pads=[0, 0] * len(kernel)),
    ]
    constants["b.weight"][:, [0, 1, 3, 4, 5]] = 0
    sides: list[int | str] = [9] * len(kernel)
    ends: list[int | str] = [11 - 2 * side for side in kernel]
    model = prepared(network(nodes, constants, {"x": ["N", 3, *sides]}, {"z": ["N", 4, *ends]}))
    axes = channel_axes(model.graph, model.layers())
    batch = {"x": torch.from_numpy(random(4, 3, *[9] * len(kernel)))}
    draws = torch.Generator().manual_seed(0)
    found = output_importance(Program(model.graph), [batch], {"y"}, draws, axes)["y"]
    assert found.shape == (1, 6, *[1] * len(kernel))
    np.testing.assert_allclose(found.flatten().numpy(), [0, 0, 6, 0, 0, 0], atol=1e-5)
    target = {"y": torch.from_numpy(random(8, 6, *[7] * len(kernel)))}
    others = [axis for axis in range(2 + len(kernel)) if axis != 1]
    expected = target["y"].var(dim=others, unbiased=False).mean()
    torch.testing.assert_close(BlockLoss("error", target, axes=axes).power["y"], expected)


def test_axes_of_channels_behind_what_moves_them() -> None:
    constants: dict[str, Any] = {"head": random(6, 5)}
    nodes = [
        conv(constants, "a", "x", "r", (6, 3, 3, 3)),
        helper.make_node("Transpose", ["r"], ["t"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["t", "head"], ["m"], "head"),
        helper.make_node("Relu", ["m"], ["z"], "relu"),
    ]
    model = prepared(network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"z": ["N", 8, 8, 5]}))
    axes = channel_axes(model.graph, model.layers())
    assert "t" not in axes
    assert (axes["r"], axes["z"]) == (1, -1)


def test_the_last_axis_of_tokens_is_that_of_the_channels() -> None:
    tokens = torch.from_numpy(random(8, 5, 3)) * torch.tensor([1.0, 2.0, 3.0])
    importance = {"y": torch.tensor([3.0, 0.0, 0.0])}
    loss = BlockLoss("network", {"y": tokens}, importance)
    expected = tokens[..., 0].var(unbiased=False)  # a third of three times the variance of the first channel
    torch.testing.assert_close(loss.power["y"], expected)
