"""Rows at random output positions of every image: which positions are drawn, and how often."""

import numpy as np
import onnx
import pytest

from tests.support.graphs import array, build, node
from tests.support.one_layer import convolution, layer_of

POSITIONED = {
    "conv": convolution("Conv", (4, 2, 3, 3), (3, 4, 7, 6), None, group=2),
    "conv_strided": convolution("Conv", (4, 4, 2, 2), (3, 4, 7, 6), None, strides=[2, 1], dilations=[1, 2]),
    "conv_transpose": convolution("ConvTranspose", (4, 3, 3, 3), (3, 4, 4, 3), None, strides=[1, 1]),
    "matmul": build([node("MatMul", ["x", "w"], ["y"], name="layer")], {"w": array(5, 4)}, (3, 12, 5)),
}


@pytest.mark.parametrize("count", [1, 5, 9])
@pytest.mark.parametrize("model", POSITIONED.values(), ids=POSITIONED.keys())
def test_positions_draw_a_subset_of_every_images_rows(model: onnx.ModelProto, count: int) -> None:
    layer, _, _ = layer_of(model)
    shape = tuple(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim)
    x = array(*shape, seed=2)
    g, _, k = layer.matrix_shape
    full = layer.rows(x).reshape(g, 3, -1, k)
    drawn = layer.rows(x, positions=count, seed=4)
    assert drawn.shape == (g, 3 * count, k)
    indices = []
    for part, whole in zip(drawn.reshape(g * 3, count, k), full.reshape(g * 3, -1, k), strict=True):
        matches = (part[:, None] == whole[None]).all(axis=2)
        assert np.all(matches.sum(axis=1) == 1)
        indices.append(matches.argmax(axis=1).tolist())
    assert all(len(set(positions)) == count for positions in indices)  # without repetition
    by_image = np.array(indices).reshape(g, 3, count)
    assert (by_image == by_image[0]).all()  # all groups have the same positions
    assert any((by_image[0] != by_image[0, 0]).any(axis=1)), "the images have positions of their own"
    np.testing.assert_array_equal(layer.rows(x, positions=count, seed=4), drawn)
    others = [layer.rows(x, positions=count, seed=seed) for seed in range(5)]
    assert any(not np.array_equal(other, drawn) for other in others)


@pytest.mark.parametrize("model", POSITIONED.values(), ids=POSITIONED.keys())
def test_at_least_as_many_positions_as_exist_takes_all(model: onnx.ModelProto) -> None:
    layer, _, _ = layer_of(model)
    x = array(*(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim), seed=2)
    full = layer.rows(x)
    for positions in (full.shape[1] // 3, 10_000):
        np.testing.assert_array_equal(layer.rows(x, positions=positions), full)


def test_every_position_is_drawn_about_as_often() -> None:
    layer, _, _ = layer_of(convolution("Conv", (1, 1, 1, 1), (1, 1, 4, 5), None))
    x = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5)
    drawn = np.concatenate([layer.rows(x, positions=5, seed=seed).reshape(-1) for seed in range(400)])
    counts = np.bincount(drawn.astype(int), minlength=20)
    assert counts.min() > 60  # 100 expected, standard deviation 9
    assert counts.max() < 140
