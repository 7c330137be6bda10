"""Networks of large Gemm and MatMul layers with random weights: MatMulNBits, and the memory of a conversion.

python -m benchmarks matmulnbits large-model
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.bar import Bar
from benchmarks.conversion_cost import conversion_cost
from benchmarks.side_by_side import speedups
from converter import Settings, convert, find_recipe
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import sqnr_db
from passes.weights.rtn import Rtn

__all__ = ["chain", "large_model", "matmul_nbits", "with_float_sums"]

_WIDTHS = (768, 3072)
_GAIN = 2**0.5  # of the weights, so that a Relu does not shrink the signal
_MODEL_BYTES = 24 * 4096**2 * 4


def chain(sizes: Sequence[int]) -> onnx.ModelProto:
    """Return a network of MatMul and Relu from the first of these sizes to the last. Its input is ``input`` [n, k]."""
    rng = np.random.default_rng(0)
    nodes, weights, source = [], [], "input"
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32(_GAIN * inputs**-0.5)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [source, f"w{index}"], [f"m{index}"], f"layer{index}"))
        nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"], f"relu{index}"))
        source = f"r{index}"
    first = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", sizes[0]])
    last = helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", sizes[-1]])
    graph = helper.make_graph(nodes, "chain", [first], [last], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_float_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same file with MatMulNBits at the accuracy level that does not round its inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        kept = [entry for entry in node.attribute if entry.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return copy


def matmul_nbits(progress: Progress) -> Iterator[Bar]:
    """Compare int8 sums in MatMulNBits with float sums: eight layers of 768 x 3072 at 4 bits, rounded to nearest."""
    rng = np.random.default_rng(1)
    model = chain(_WIDTHS * 4 + _WIDTHS[:1])
    recipe = find_recipe("int4-matmulnbits")
    passes = tuple(Rtn(bits=4, block_size=32) if step.name == "gptq" else step for step in recipe.passes)
    plan = dataclasses.replace(recipe, name="nearest", passes=passes)
    calibration = rng.standard_normal((64, _WIDTHS[0]), dtype=np.float32)
    written = convert(model, calibration, recipe=plan, settings=Settings(timing=False), progress=progress).model
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        files = {name: Path(temporary) / f"{name}.onnx" for name in ("float sums", "int8 sums")}
        onnx.save(with_float_sums(written), files["float sums"])
        onnx.save(written, files["int8 sums"])
        for batch in (1, 16):
            rows = rng.standard_normal((batch, _WIDTHS[0]), dtype=np.float32)
            faster = speedups(files, rows)["int8 sums"]
            yield Bar(f"MatMulNBits, int8 against float sums, batch {batch}", faster, 1.8, "x", at_least=True)
        rows = rng.standard_normal((64, _WIDTHS[0]), dtype=np.float32)
        exact = Runner(model, "float").execute({"input": rows})[0]
        errors = {name: sqnr_db(exact, Runner(path, name).execute({"input": rows})[0]) for name, path in files.items()}
    note = ", ".join(f"{name} {error:.2f} dB" for name, error in errors.items())
    yield Bar("MatMulNBits: SQNR lost by int8 sums", errors["float sums"] - errors["int8 sums"], 0.5, "dB", note=note)


def large_model(progress: Progress) -> Iterator[Bar]:
    """Measure the peak memory of `int8` with a model of 1.6 GB: 24 layers of 4096 x 4096. It takes minutes."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        model, data = Path(temporary) / "model.onnx", Path(temporary) / "data.npz"
        progress("writing a model of 1.6 GB", 0, 1)
        onnx.save(chain([4096] * 25), model)
        np.savez(data, x=np.random.default_rng(1).standard_normal((32, 4096), dtype=np.float32))
        progress("writing a model of 1.6 GB", 1, 1)
        cost = conversion_cost(model, data, "int8", 32)
    most = (DEFAULT_MEMORY_BUDGET + 3 * _MODEL_BYTES) / 1e9
    yield Bar("Model of 1.6 GB, int8: peak memory", cost.peak_bytes / 1e9, most, "GB", note="budget + 3x the model")
