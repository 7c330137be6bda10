"""Operators that move positions give the same whether channels are mixed before or behind them."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from passes.graph.normalise.shapes import infer_shapes
from passes.rotation.channel_axes import MOVERS, PASS_CONSTANTS_ON
from tests.support.graphs import array, build, node, run

SHAPE = (2, 6, 4, 3)

CASES: dict[str, tuple[str, dict[str, Any], list[list[int]]]] = {
    "dropout": ("Dropout", {}, []),
    "identity": ("Identity", {}, []),
    "flatten": ("Flatten", {"axis": 2}, []),
    "merged_behind": ("Reshape", {}, [[0, 6, -1]]),
    "merged_before": ("Reshape", {}, [[12, 4, 3]]),
    "divided": ("Reshape", {}, [[0, 2, 3, 4, 3]]),
    "all_in_one": ("Reshape", {}, [[-1]]),
    "same_size_elsewhere": ("Reshape", {}, [[0, 4, 6, 3]]),
    "unsqueezed": ("Unsqueeze", {}, [[1, 5]]),
    "channels_first_pool": ("GlobalAveragePool", {}, []),
    "channels_first_average": (
        "AveragePool",
        {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1},
        [],
    ),
    "mean": ("ReduceMean", {"keepdims": 0}, [[1, -2]]),
    "mean_that_keeps_axes": ("ReduceMean", {}, [[3]]),
    "mean_of_all": ("ReduceMean", {}, []),
    "sum": ("ReduceSum", {"keepdims": 0}, [[3]]),
    "doubled": ("Expand", {}, [[3, 1, 1, 1, 1]]),
    "some": ("Gather", {"axis": 1}, [[5, 0, 2, 2, 1, 4]]),
    "same_size_gathered": ("Gather", {"axis": 2}, [[3, 1, 0, 2]]),
    "of_the_last": ("Gather", {"axis": -1}, [[2, 0, 1]]),
    "sliced": ("Slice", {}, [[0, 3], [2, -5], [0, 1], [1, -1]]),
    "sliced_backwards": ("Slice", {}, [[3], [-5], [2], [-1]]),
    "sliced_without_axes": ("Slice", {}, [[0, 1], [2, 5]]),
    "transposed": ("Transpose", {"perm": [2, 0, 3, 1]}, []),
    "reversed": ("Transpose", {}, []),
}


def mixed(x: np.ndarray, axis: int) -> np.ndarray:
    """Mix the channels of an axis by a matrix that is not even orthogonal."""
    size = x.shape[axis]
    matrix = np.random.default_rng(size).standard_normal((size, size))
    return np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis).astype(np.float32)


@pytest.mark.parametrize("axis", [-4, -3, -2, -1])
@pytest.mark.parametrize("case", CASES)
def test_channels_may_be_mixed_before_or_behind(case: str, axis: int) -> None:
    op, attributes, operands = CASES[case]
    constants = {f"operand{index}": np.array(values) for index, values in enumerate(operands)}
    model = build([node(op, ["x", *constants], ["y"], name="it", **attributes)], constants, SHAPE, opset=18)
    graph = gs.import_onnx(model)
    found = MOVERS[op](graph.nodes[0], axis, infer_shapes(graph))
    x = array(*SHAPE)
    (plain,), (moved,) = run(model, x), run(model, mixed(x, axis))
    if found is None:  # nor could it be found, except on the axis of samples
        behind = [mixed(plain, place) for place in range(plain.ndim) if plain.shape[place] == SHAPE[axis]]
        assert axis == -4 or not any(
            each.shape == moved.shape and np.allclose(each, moved, atol=1e-4) for each in behind
        )
        return
    np.testing.assert_allclose(moved, mixed(plain, found), atol=1e-4)
    constant = np.moveaxis(np.broadcast_to(array(SHAPE[axis]), np.moveaxis(x, axis, -1).shape), -1, axis)
    passed = np.moveaxis(run(model, np.ascontiguousarray(constant))[0], found, -1)
    assert np.allclose(passed, array(SHAPE[axis]), atol=1e-5) == (op in PASS_CONSTANTS_ON)
