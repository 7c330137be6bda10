"""Grids: codes and values are inverses, zero is exact, and onnxruntime's QuantizeLinear and DequantizeLinear agree."""

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from passes.numerics.grid import ActivationGrid, Codes, Floats, Grid, code_range

scales = st.floats(2.0**-40, 1e6, width=32)
bounds = st.floats(-1e6, 1e6, width=32)


@cache
def quantizer(code_type: int, axis: int | None, block_size: int) -> onnxruntime.InferenceSession:
    """Make x, scale and zero point -> QuantizeLinear -> DequantizeLinear. Codes are int32, values are float32."""
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis, "block_size": block_size}
    zero = helper.make_node("Cast", ["zero"], ["zero_typed"], to=code_type)
    inputs = ["scale", "zero_typed"]
    graph = helper.make_graph(
        [
            zero,
            helper.make_node("QuantizeLinear", ["x", *inputs], ["q"], **attributes),
            helper.make_node("Cast", ["q"], ["codes"], to=TensorProto.INT32),
            helper.make_node("DequantizeLinear", ["q", *inputs], ["values"], **attributes),
        ],
        "quantizer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("zero", TensorProto.INT32, None),
        ],
        [
            helper.make_tensor_value_info("codes", TensorProto.INT32, None),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, None),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_onnxruntime(
    x: Floats, scale: Floats, zero: np.ndarray, code_type: int, axis: int | None = None, block_size: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    session = quantizer(code_type, axis, block_size)
    codes, values = session.run(None, {"x": x, "scale": scale, "zero": zero.astype(np.int32)})
    return codes, values


@st.composite
def grids(draw: st.DrawFn, bits: st.SearchStrategy[int] | None = None) -> tuple[Grid, Codes]:
    """Draw a grid of any granularity, often with a shorter last block, and codes on it."""
    width = draw(bits or st.integers(2, 8))
    g, o, k = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    block_size = draw(st.none() | st.integers(1, k))
    count = 1 if block_size is None else -(-k // block_size)
    low, high = code_range(width)
    codes = st.integers(low, high)
    scale = draw(arrays(np.float32, (g, o, count), elements=scales))
    zero = draw(arrays(np.int8, (g, o, count), elements=codes))
    return Grid(width, scale, zero, block_size), draw(arrays(np.int8, (g, o, k), elements=codes))


@pytest.mark.parametrize(
    ("bits", "expected"), [(2, (-2, 1)), (3, (-4, 3)), (4, (-8, 7)), (7, (-64, 63)), (8, (-127, 127))]
)
def test_code_range(bits: int, expected: tuple[int, int]) -> None:
    assert code_range(bits) == expected


@pytest.mark.parametrize("bits", [-1, 0, 1, 9])
def test_code_range_refuses_bits_outside_2_to_8(bits: int) -> None:
    with pytest.raises(ValueError, match=f"weight bits must be 2 to 8, not {bits}"):
        code_range(bits)


@given(grids())
def test_values_on_the_grid_stay(drawn: tuple[Grid, Codes]) -> None:
    grid, codes = drawn
    values = grid.values(codes)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(grid.codes(values), codes)
    np.testing.assert_array_equal(grid.values(grid.codes(values)), values)


@given(grids())
def test_value_is_code_minus_zero_point_times_the_scale_of_its_block(drawn: tuple[Grid, Codes]) -> None:
    grid, codes = drawn
    values = grid.values(codes)
    for (g, o, k), value in np.ndenumerate(values):
        b = k // grid.block_size if grid.block_size else 0
        expected = np.float32(int(codes[g, o, k]) - int(grid.zero_point[g, o, b])) * grid.scale[g, o, b]
        assert value == expected


@given(grids(), st.integers(0, 2**32 - 1))
def test_rounding_goes_to_the_nearest_point_and_clips_to_the_ends(drawn: tuple[Grid, Codes], seed: int) -> None:
    grid, codes = drawn
    scale, zero = (part.astype(np.float64) for part in grid.spread(codes.shape[2]))
    low, high = code_range(grid.bits)
    rng = np.random.default_rng(seed)
    weight = ((rng.uniform(low - 3, high + 3, codes.shape) - zero) * scale).astype(np.float32)
    actual = grid.codes(weight)
    assert actual.dtype == np.int8
    assert low <= actual.min()
    assert actual.max() <= high
    points = (np.arange(low, high + 1) - zero[..., None]) * scale[..., None]  # [g, o, k, codes]
    best = np.abs(points - weight[..., None]).min(axis=-1)
    error = np.abs(grid.values(actual).astype(np.float64) - weight)
    assert np.all(error <= best + 1e-5 * (np.abs(weight) + scale))  # float32: a tie may be rounded either way


def test_ties_go_to_even() -> None:
    grid = Grid(4, np.array([[[0.5]]], np.float32), np.zeros((1, 1, 1), np.int8))
    weight = np.array([[[0.25, 0.75, 1.25, -0.25, -0.75]]], np.float32)
    np.testing.assert_array_equal(grid.codes(weight), [[[0, 2, 2, 0, -2]]])


def test_values_far_outside_become_an_end_of_the_grid() -> None:
    for bits in range(2, 9):
        grid = Grid(bits, np.array([[[1e-3]]], np.float32), np.zeros((1, 1, 1), np.int8))
        np.testing.assert_array_equal(grid.codes(np.array([[[-1e30, 1e30]]], np.float32)), [[code_range(bits)]])


def test_ragged_last_block() -> None:
    grid = Grid(4, np.array([[[1.0, 10.0]]], np.float32), np.array([[[0, 1]]], np.int8), block_size=3)
    np.testing.assert_array_equal(grid.values(np.array([[[1, 2, 3, 4, 5]]], np.int8)), [[[1, 2, 3, 30, 40]]])
    assert [part.shape for part in grid.spread(5)] == [(1, 1, 5), (1, 1, 5)]


@pytest.mark.parametrize(("k", "block_size", "scales_held"), [(5, 3, 1), (7, 3, 2), (5, None, 2)])
def test_a_wrong_number_of_blocks_is_refused(k: int, block_size: int | None, scales_held: int) -> None:
    grid = Grid(4, np.ones((1, 1, scales_held), np.float32), np.zeros((1, 1, scales_held), np.int8), block_size)
    with pytest.raises(ValueError, match=f"{scales_held} scales for {k} inputs"):
        grid.values(np.zeros((1, 1, k), np.int8))


def test_symmetric_means_every_zero_point_is_zero() -> None:
    scale = np.ones((1, 2, 1), np.float32)
    assert Grid(4, scale, np.zeros((1, 2, 1), np.int8)).symmetric
    assert not Grid(4, scale, np.array([[[0], [1]]], np.int8)).symmetric


@pytest.mark.parametrize(("bits", "code_type"), [(4, TensorProto.INT4), (8, TensorProto.INT8)])
@pytest.mark.parametrize("block_size", [None, 16])
@pytest.mark.parametrize("affine", [False, True], ids=["symmetric", "affine"])
def test_weights_agree_with_onnxruntime_bit_for_bit(
    bits: int, code_type: int, block_size: int | None, affine: bool
) -> None:
    rng = np.random.default_rng(bits)
    low, high = code_range(bits)
    count = 1 if block_size is None else 3
    scale = rng.uniform(1e-3, 1.0, (1, 5, count)).astype(np.float32)
    zero = rng.integers(low, high, (1, 5, count), endpoint=True).astype(np.int8) if affine else np.zeros_like(scale)
    grid = Grid(bits, scale, zero.astype(np.int8), block_size)
    weight = (rng.uniform(1.3 * low, 1.3 * high, (1, 5, 48)) * scale.mean()).astype(np.float32)
    weight[..., ::4] = np.rint(weight[..., ::4] / scale[..., :1]) * scale[..., :1] + scale[..., :1] / 2  # near ties
    if block_size is None:
        codes, values = by_onnxruntime(weight[0], scale[0, :, 0], grid.zero_point[0, :, 0], code_type, 0)
    else:
        codes, values = by_onnxruntime(weight[0], scale[0], grid.zero_point[0], code_type, 1, block_size)
    if bits == 8:  # -128 is not used
        keep = codes != -128
        assert keep.mean() > 0.5
        np.testing.assert_array_equal(np.maximum(codes, -127), grid.codes(weight)[0])
        np.testing.assert_array_equal(values[keep], grid.values(grid.codes(weight))[0][keep])
    else:
        np.testing.assert_array_equal(codes, grid.codes(weight)[0])
        np.testing.assert_array_equal(values, grid.values(grid.codes(weight))[0])


@given(bounds, bounds, st.booleans(), st.booleans())
def test_zero_is_exact_and_the_range_is_covered(first: float, second: float, signed: bool, symmetric: bool) -> None:
    low, high = sorted((first, second))
    grid = ActivationGrid.of(low, high, signed=signed, symmetric=symmetric)
    assert grid.scale.dtype == np.float32
    assert grid.scale > 0
    least, most = grid.code_range
    assert least <= grid.zero_point <= most
    assert np.iinfo(grid.dtype).min == least
    assert np.iinfo(grid.dtype).max == most
    assert (grid.low, grid.high) == (min(low, 0.0), max(high, 0.0))
    assert grid.values(np.zeros(1, np.float32))[0] == 0.0
    ends = np.array([low, high, (low + high) / 2], np.float32)
    assert np.all(np.abs(grid.values(ends) - ends) <= 0.5001 * grid.scale + 1e-6 * np.abs(ends))  # nothing clipped
    span = grid.high - grid.low
    if not symmetric:
        assert grid.scale <= max((span or 1) / 255 * 1.00001, 1e-30)  # all codes are used


@given(st.floats(0, 1e6, width=32), bounds, st.booleans())
def test_symmetric_grids(size: float, other: float, signed: bool) -> None:
    low, high = sorted((-size, other))
    grid = ActivationGrid.of(low, high, signed=signed, symmetric=True)
    if signed:
        assert grid.zero_point == 0
    else:
        assert grid.zero_point == (0 if low == 0 else 128)
        if low == 0:
            assert float(grid.scale) == pytest.approx((high or 1) / 255, rel=1e-6, abs=1e-30)


def test_known_grids() -> None:
    unsigned = ActivationGrid.of(-1.0, 1.55)
    assert (unsigned.scale, unsigned.zero_point, unsigned.dtype) == (np.float32(0.01), 100, np.uint8)
    signed = ActivationGrid.of(-1.0, 1.55, signed=True)
    assert (signed.scale, signed.zero_point, signed.dtype) == (np.float32(0.01), -28, np.int8)
    wide = ActivationGrid.of(-1.0, 64.535, bits=16)
    assert (wide.scale, wide.zero_point, wide.dtype, wide.code_range) == (np.float32(1e-3), 1000, np.uint16, (0, 65535))
    assert wide.with_sign(signed=True).zero_point == 1000 - 32768
    assert wide.with_sign(signed=True).dtype == np.int16
    with pytest.raises(ValueError, match="activations have 8 or 16 bits, not 12"):
        ActivationGrid.of(-1.0, 1.0, bits=12)
    symmetric = ActivationGrid.of(-1.0, 2.54, signed=True, symmetric=True)
    assert (symmetric.scale, symmetric.zero_point) == (np.float32(0.02), 0)
    relu = ActivationGrid.of(0.5, 2.55)
    assert (relu.scale, relu.zero_point, relu.low) == (np.float32(0.01), 0, 0.0)
    assert ActivationGrid.of(0.0, 2.55, signed=True).zero_point == -128
    assert ActivationGrid.of(-2.55, -1.0).zero_point == 255


@pytest.mark.parametrize("options", [{}, {"signed": True}, {"symmetric": True}, {"signed": True, "symmetric": True}])
def test_a_tensor_that_is_always_zero_has_a_grid(options: dict[str, bool]) -> None:
    grid = ActivationGrid.of(0.0, 0.0, **options)
    assert grid.scale == np.float32(1 / 255)  # any step would do; products with this one do not vanish
    assert (grid.low, grid.high) == (0, 0)
    assert grid.values(np.zeros(3, np.float32)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 0.5), (float("nan"), 1.0), (0.0, float("nan")), (-float("inf"), 0.0), (0.0, float("inf"))]
)
def test_invalid_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"not a range: {low} to {high}"):
        ActivationGrid.of(low, high)


@given(
    bounds,
    bounds,
    st.booleans(),
    st.booleans(),
    arrays(np.float32, 16, elements=st.floats(-2, 2, width=32)),
    arrays(np.int16, 16, elements=st.integers(-300, 300)),
)
def test_activations_agree_with_onnxruntime_bit_for_bit(
    first: float, second: float, signed: bool, symmetric: bool, shares: Floats, halves: np.ndarray
) -> None:
    low, high = sorted((first, second))
    grid = ActivationGrid.of(low, high, signed=signed, symmetric=symmetric)
    span = np.float32(grid.high - grid.low)
    x = np.concatenate([shares * span, halves.astype(np.float32) * (grid.scale / 2)]).astype(np.float32)
    code_type = TensorProto.INT8 if signed else TensorProto.UINT8
    _, values = by_onnxruntime(x, np.asarray(grid.scale), np.asarray(grid.zero_point), code_type)
    np.testing.assert_array_equal(grid.values(x), values)
