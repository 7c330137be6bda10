"""3 and 2 bits from the pass to the file: every grid, what it takes on disk, and what the reports say of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from converter import Recipe, Result, convert
from converter.inspection.inspect import inspect
from converter.qdq.weights import Storage
from converter.report.table import show, weights_table
from passes.activations.activation_ranges import ActivationRanges
from passes.base import LayerPass
from passes.graph.normalise.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.weights.gpfq import Gpfq
from passes.weights.gptq import Gptq
from passes.weights.obq import Obq
from passes.weights.qronos import Qronos
from passes.weights.rtn import Rtn
from tests.support.networks import images, resnet, run

X, UNSEEN = images(16, 3, 12, 12), images(48, 3, 12, 12, seed=9)
KINDS = {2: TensorProto.INT2, 3: TensorProto.INT4}
SOLVERS: dict[str, type[LayerPass]] = {"rtn": Rtn, "gptq": Gptq, "obq": Obq, "gpfq": Gpfq, "qronos": Qronos}
every_grid = pytest.mark.parametrize(
    ("symmetric", "block_size"),
    [(True, None), (False, None), (True, 16), (False, 16)],
    ids=["sym", "asym", "symb", "asymb"],
)

pytestmark = pytest.mark.usefixtures("packed")


def on_integers(step: LayerPass) -> bool:
    return step.block_size is None and step.symmetric


def converted(step: LayerPass, storage: Storage = "cast") -> Result:
    """With integer activations where there are integer kernels: not for block scales and zero points."""
    ranges = (ActivationRanges(),) if on_integers(step) else ()
    return convert(resnet(), X, recipe=Recipe("mine", "", (Normalise(), *ranges, step), storage=storage))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bits", [2, 3])
@every_grid
def test_every_grid_reaches_the_file(solver: str, bits: int, symmetric: bool, block_size: int | None) -> None:
    step = SOLVERS[solver](bits=bits, symmetric=symmetric, block_size=block_size)
    result = converted(step)
    codes = [tensor for tensor in result.model.graph.initializer if tensor.data_type == KINDS[bits]]
    assert len(codes) == len(result.layers)
    opset = next(entry.version for entry in result.model.opset_import if entry.domain == "")
    assert (opset >= 25) is (bits == 2)
    for layer in result.layers:
        assert (layer.bits, layer.stored_bits) == (bits, {2: 2, 3: 4}[bits])
        assert layer.activation_bits == (8 if on_integers(step) else 32)
    error = sqnr_db(run(resnet(), UNSEEN)[0], run(result.model, UNSEEN)[0])
    assert error > {2: 0, 3: 7}[bits] + (3 if solver != "rtn" else 0)


@pytest.mark.parametrize("bits", [2, 3])
def test_gptq_is_worth_more_the_fewer_the_bits(bits: int) -> None:
    exact = run(resnet(), UNSEEN)[0]
    nearest, swept = (converted(kind(bits=bits)) for kind in (Rtn, Gptq))
    assert sqnr_db(exact, run(swept.model, UNSEEN)[0]) > sqnr_db(exact, run(nearest.model, UNSEEN)[0]) + 3


@pytest.mark.parametrize("bits", [2, 3])
@every_grid
def test_inspect_says_bits_of_the_grid_and_on_disk(
    bits: int, symmetric: bool, block_size: int | None, tmp_path: Path
) -> None:
    result = converted(Rtn(bits=bits, symmetric=symmetric, block_size=block_size))
    result.save(tmp_path / "low.onnx")
    found = inspect(tmp_path / "low.onnx")
    stored = {2: "int2", 3: "int4"}[bits]
    for layer in found.layers:
        assert layer.weight_bits == bits
        assert layer.storage.startswith(stored)
        assert layer.fused is (symmetric and block_size is None)
    assert found.layers[0].granularity == ("block 16" if block_size else "channel")
    assert found.bytes_by_type[stored] > 0


@pytest.mark.parametrize(
    ("storage", "bits", "stored", "words"),
    [
        ("cast", 3, 4, "3 bits in int4"),
        ("cast", 2, 2, "2 bits "),
        ("int8", 3, 8, "3 bits in int8"),
        ("int8", 2, 8, "2 bits in int8"),
        ("cast", 8, 8, "8 bits "),
    ],
)
def test_the_report_says_so_too(
    storage: Storage, bits: int, stored: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = converted(Rtn(bits=bits), storage)
    assert {layer.stored_bits for layer in result.layers} == {stored}
    show([weights_table(result.layers, "outputs")])
    assert words in capsys.readouterr().out
    kinds = {tensor.data_type for tensor in result.model.graph.initializer}
    assert {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}[stored] in kinds


def test_two_bits_in_matmulnbits_take_two_in_one_block_of_32() -> None:
    """The Gemm has 16 inputs."""
    result = converted(Rtn(bits=2, block_size=16), "matmulnbits")
    assert {layer.name: layer.stored_bits for layer in result.layers if layer.op == "Gemm"} == {"fc": 2}
    assert {layer.stored_bits for layer in result.layers if layer.op == "Conv"} == {2}
    (node,) = (node for node in result.model.graph.node if node.op_type == "MatMulNBits")
    stored = {entry.name: entry.i for entry in node.attribute}
    assert (stored["bits"], stored["block_size"]) == (2, 32)


def test_codes_of_a_file_are_those_of_the_grid() -> None:
    result = converted(Rtn(bits=2))
    for tensor in result.model.graph.initializer:
        if tensor.data_type == TensorProto.INT2:
            codes = onnx.numpy_helper.to_array(tensor).astype(np.int8)
            assert set(np.unique(codes)) <= {-2, -1, 0, 1}
            rows = codes.reshape(codes.shape[0], -1)
            assert (rows != 0).any(axis=1).all()
