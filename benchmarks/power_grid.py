"""A non-uniform grid, whose codes stand for powers, beside the uniform and the two-level grid: error of the weights.

    python -m benchmarks.power_grid                      every network that is on this machine, at 4, 3 and 2 bits

Codes c of a power grid stand for ``s sign(c) |c|^a`` (PowerQuant, Yvinec et al. 2023, arXiv 2301.09858). The exponent
a is the best of a search for the whole network, and each channel has the best of a search of scales. The powers are
rounded to 8 bits, as integer kernels need. onnxruntime on a CPU can hold such a grid: a Gather from a table of the
codes is folded when the model is loaded, and the layer runs on its integer kernel (`holds_a_table` checks it). Each
weight goes to the nearest value, and scales are searched, in every grid. Numbers are the mean of the layers' SQNR of
weights.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich import box
from rich.table import Table

from benchmarks.networks_with_images import NETWORKS
from benchmarks.shared_data import MissingData
from converter import find_recipe
from converter.report.table import show
from converter.runtime.session import open_session
from converter.targets.catalog import find_target
from passes.base import GraphPass, Stage
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.numerics.error import sqnr_db
from passes.numerics.grid import Floats, code_range
from passes.numerics.weight_grid import GridForm
from passes.statistics import Stats

__all__ = ["Row", "holds_a_table", "main", "measured", "power_levels", "power_values"]

_EXPONENTS = np.linspace(1.0, 2.2, 7)
_SCALES = np.linspace(0.4, 1.1, 15)  # of a channel's largest weight over the largest level


@dataclass(frozen=True)
class Row:
    """Mean SQNR of the weights of a network's layers in dB.

    Attributes:
        network: Name of the network.
        bits: Bits of the codes.
        uniform: A scale a channel.
        power: The same with powers of the codes.
        exponent: Their exponent.
        two_level: Blocks of 8 with 4-bit multiples of the channel's scale: half a bit more for each weight.
    """

    network: str
    bits: int
    uniform: float
    power: float
    exponent: float
    two_level: float


def power_levels(bits: int, exponent: float) -> Floats:
    """Return the values ``[2^bits]`` of the codes from the lowest up, rounded to 8 bits, the largest near 1."""
    low, high = code_range(bits)
    codes = np.arange(low, high + 1)
    return np.round(127 * np.sign(codes) * np.abs(codes / low) ** exponent).astype(np.float32) / np.float32(127)


def power_values(weight: Floats, bits: int, exponent: float) -> Floats:
    """Return a weight ``[g, o, k]`` on a power grid, each channel with the scale of the least squared error."""
    levels = power_levels(bits, exponent)
    between = (levels[1:] + levels[:-1]) / 2
    largest = np.abs(weight).max(axis=2, keepdims=True).clip(1e-20)
    best, least = np.zeros_like(weight), np.full((*weight.shape[:2], 1), np.inf, np.float32)
    for share in _SCALES:
        for sign in (1, -1):  # the lowest code has no counterpart above
            scale = largest * np.float32(sign * share)
            values = levels[np.searchsorted(between, weight / scale)] * scale
            error = np.square(values - weight).sum(axis=2, keepdims=True)
            best, least = np.where(error < least, values, best), np.minimum(error, least)
    return best


def measured(name: str, model: onnx.ModelProto, bits: Sequence[int]) -> list[Row]:
    """Return a row for each number of bits. BatchNormalization is folded first, as in `int4`."""
    graph = Model(import_graph(model), find_target("cpu").rules)
    for step in find_recipe("int4").passes:
        if step.stage <= Stage.FLOAT and not step.needs_data and isinstance(step, GraphPass):
            step.apply(graph, Stats())
    weights = [graph.weight(layer) for layer in graph.layers().values()]
    rows = []
    for count in bits:
        by_exponent = [(_mean(weights, partial(power_values, bits=count, exponent=a)), a) for a in _EXPONENTS]
        power, exponent = max(by_exponent)
        forms = GridForm(count), GridForm(count, block_size=8, two_level=True)
        uniform, two_level = (_mean(weights, partial(_rounded, form=form)) for form in forms)
        rows.append(Row(name, count, uniform, power, float(exponent), two_level))
    return rows


def _rounded(weight: Floats, form: GridForm) -> Floats:
    if form.block_size is not None and weight.shape[2] % form.block_size:
        form = GridForm(form.bits)
    grid = form.grid(weight)
    return grid.values(grid.codes(weight))


def _mean(weights: Sequence[Floats], rounded: Callable[[Floats], Floats]) -> float:
    return float(np.mean([sqnr_db(weight, rounded(weight)) for weight in weights]))


def holds_a_table() -> bool:
    """Whether onnxruntime runs a convolution on its integer kernel whose weights are codes of a table of values."""
    codes = np.random.default_rng(0).integers(0, 16, (16, 8, 3, 3))
    table = np.round(127 * power_levels(4, 1.5)).astype(np.int8)
    scales = {"x.scale": 0.02, "y.scale": 0.1}
    constants = [
        helper.make_tensor("codes", TensorProto.UINT4, codes.shape, codes.ravel().tolist()),
        numpy_helper.from_array(table, "table"),
        *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in scales.items()),
        numpy_helper.from_array(np.array(128, np.uint8), "zero"),
        numpy_helper.from_array(np.full(16, 0.01, np.float32), "w.scale"),
        numpy_helper.from_array(np.zeros(16, np.int8), "w.zero"),
    ]
    nodes = [
        helper.make_node("Cast", ["codes"], ["index"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "index"], ["w.values"]),
        helper.make_node("DequantizeLinear", ["w.values", "w.scale", "w.zero"], ["w"], axis=0),
        helper.make_node("QuantizeLinear", ["x", "x.scale", "zero"], ["x.codes"]),
        helper.make_node("DequantizeLinear", ["x.codes", "x.scale", "zero"], ["x.values"]),
        helper.make_node("Conv", ["x.values", "w"], ["y"], "conv"),
        helper.make_node("QuantizeLinear", ["y", "y.scale", "zero"], ["y.codes"]),
        helper.make_node("DequantizeLinear", ["y.codes", "y.scale", "zero"], ["out"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 16, 16])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 16, 14, 14])
    graph = helper.make_graph(nodes, "table", [image], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, optimized=path)
        kinds = {node.op_type for node in onnx.load(path).graph.node}
    return "QLinearConv" in kinds and not kinds & {"Gather", "Conv"}


def table(rows: Sequence[Row]) -> Table:
    """Build a table with a row for each network and number of bits."""
    built = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in ("network", "bits", "uniform", "powers", "exponent", "two levels"):
        built.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        decibels = (f"{value:.2f} dB" for value in (row.uniform, row.power))
        built.add_row(row.network, str(row.bits), *decibels, f"{row.exponent:.1f}", f"{row.two_level:.2f} dB")
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. The result is 1 if data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.power_grid", description="Powers as a grid, measured.")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--bits", nargs="+", type=int, choices=range(2, 5), default=[4, 3, 2], metavar="N")
    options = parser.parse_args(arguments)
    try:
        rows = [row for name in options.networks for row in measured(name, NETWORKS[name].model(), options.bits)]
    except MissingData as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    show([table(rows)])
    print(f"onnxruntime folds the table and runs the integer kernel: {'yes' if holds_a_table() else 'no'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
