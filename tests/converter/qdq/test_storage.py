import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto

from converter.qdq.storage import code_tensor, pack, stored_bits
from passes.numerics.grid import Codes

TYPES = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}


def codes(bits: int, shape: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[Codes]:
    """Signed codes, both ends of their range included."""
    half = 1 << (bits - 1)
    return arrays.arrays(np.int8, shape, elements=st.integers(-half, half - 1))


def read(tensor: TensorProto) -> Codes:
    """The codes as onnx reads them."""
    return np.asarray(onnx.numpy_helper.to_array(tensor)).astype(np.int8)


SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_code_survives(bits: int) -> None:
    half = 1 << (bits - 1)
    every = np.arange(-half, half).astype(np.int8)
    assert len(pack(every, bits)) == len(every) * bits // 8
    np.testing.assert_array_equal(read(code_tensor("w", every, bits)), every)


@pytest.mark.parametrize(("bits", "last"), [(2, 0b01), (4, 0x3)])
def test_an_odd_count_leaves_the_rest_of_the_last_byte_zero(bits: int, last: int) -> None:
    count = 8 // bits + 1
    values = np.full(count, -1, np.int8)
    values[-1] = last
    np.testing.assert_array_equal(pack(values, bits), np.array([0xFF, last], np.uint8))


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    assert pack(np.array([1, -1, 7]), 4).tolist() == [0xF1, 0x07]
    assert pack(np.array([1, -1, -2, 0, 1]), 2).tolist() == [0b00_10_11_01, 0b01]


def test_packs_unsigned_codes_too() -> None:
    assert pack(np.array([0, 15, 8], np.int16), 4).tolist() == [0xF0, 0x08]
    assert pack(np.array([0, 255, 128], np.int16), 8).tolist() == [0, 255, 128]


@pytest.mark.parametrize("bits", [2, 4, 8])
@given(data=st.data())
def test_onnx_reads_the_same_codes(bits: int, data: st.DataObject) -> None:
    values = data.draw(codes(bits, SHAPES))
    tensor = code_tensor("w", values, bits)
    onnx.checker.check_tensor(tensor)
    assert (tensor.name, tensor.data_type, tuple(tensor.dims)) == ("w", TYPES[bits], values.shape)
    np.testing.assert_array_equal(read(tensor), values)


@pytest.mark.parametrize("shape", [(3, 1, 5), (1, 1), (7,)])
def test_codes_that_are_not_contiguous(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).astype(np.int8).reshape(shape) % 8
    np.testing.assert_array_equal(read(code_tensor("w", values.T, 4)), values.T)


def test_bits_on_disk() -> None:
    assert [stored_bits(bits) for bits in range(2, 9)] == [2, 4, 4, 8, 8, 8, 8]
