"""Store embedding tables as int8, with a scale for each row: what stands in the file for a language model's words.

    codes -> Gather(ids) -> Cast(FLOAT) -> Mul(scale of each id)

Rows are rounded to nearest on symmetric grids, s = max |row| / 127, as Q8BERT does (Zafrir et al. 2019,
arXiv:1910.06188, equation 1, there with one scale for the table). Only rows that are read become floats. A table that
is the weight of a layer too gets the codes of that layer instead (`converter.qdq.tables`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto

from passes.base import GraphPass
from passes.ir.large_constants import loaded
from passes.ir.model import Model
from passes.ir.surgery import fresh_name, tensor_names
from passes.ir.tables import lone_tables
from passes.numerics.error import decibel
from passes.report import PassReport
from passes.statistics import Stats

__all__ = ["Embeddings"]

_LARGEST_CODE = 127
_LEAST_DB = 30.0  # normal values have 40 dB and more; a row with one value far above the others can lose the rest
_CHUNK = 1 << 22  # values that are rounded together


@dataclass(frozen=True)
class Embeddings(GraphPass):
    """Store embedding tables in 8 bits, on targets that gather rows of codes.

    Tables of less than 16 KB stay in float, and so do those whose rounding would leave less than 30 dB.
    """

    name: ClassVar[str] = "embeddings"

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Replace each Gather of a table's rows by one of its codes."""
        notes = []
        shared = {reader for table in model.tables().values() for reader in table.readers}
        for table in lone_tables(model.graph, shared) if model.rules.gathers_codes else ():
            rounded = _rounded(table)
            size = "x".join(map(str, table.shape))
            if isinstance(rounded, str):
                notes.append(f"{table.name} ({size}): {rounded}, so it stays in float")
                continue
            codes, scales, sqnr = rounded
            notes.append(f"{table.name} ({size}): 8 bits a row, {sqnr:.1f} dB")
            _gather_codes(model.graph, table, codes, scales)
        return PassReport(self.name, {}, dict.fromkeys(model.layers(), "no embedding table"), tuple(notes))


def _chunks(table: NDArray[np.float32]) -> Iterator[slice]:
    rows = max(1, _CHUNK // max(table.shape[1], 1))
    return (slice(start, start + rows) for start in range(0, len(table), rows))


def _rounded(table: gs.Constant) -> tuple[NDArray[np.int8], NDArray[np.float32], float] | str:
    """Return codes [r, k], scales [r] and the SQNR in dB, or why the table is not rounded."""
    floats = np.asarray(loaded(table._values), np.float32)
    codes, scales = np.empty(floats.shape, np.int8), np.empty(len(floats), np.float32)
    signal = noise = 0.0
    for part in _chunks(floats):
        values = floats[part]
        largest = np.abs(values).max(axis=1, initial=0.0)
        if not np.isfinite(largest).all():
            return "it has NaN or Inf"
        scales[part] = np.maximum(largest / _LARGEST_CODE, np.finfo(np.float32).tiny)
        codes[part] = np.rint(values / scales[part, None]).clip(-_LARGEST_CODE, _LARGEST_CODE)
        signal += float(np.sum(np.square(values, dtype=np.float64)))
        noise += float(np.sum(np.square(values - codes[part] * scales[part, None], dtype=np.float64)))
    sqnr = decibel(signal, noise)
    if sqnr < _LEAST_DB or math.isnan(sqnr):
        return f"8 bits a row would leave {sqnr:.1f} dB"
    return codes, scales, sqnr


def _gather_codes(graph: gs.Graph, table: gs.Constant, codes: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
    """Replace the Gathers of a table. The node that writes the result keeps the Gather's name."""
    tensors, names = tensor_names(graph), {node.name for node in graph.nodes}
    constants = (
        gs.Constant(fresh_name(f"{table.name}_{what}", tensors), values)
        for what, values in (("int8", codes), ("scale", scales), ("last_axis", np.array([-1], np.int64)))
    )
    stored, factors, last = constants
    for gather in list(table.outputs):
        place = next(index for index, node in enumerate(graph.nodes) if node is gather)
        graph.nodes[place : place + 1] = _rows(gather, stored, factors, last, tensors, names)


def _rows(
    gather: gs.Node, codes: gs.Constant, scales: gs.Constant, last: gs.Constant, tensors: set[str], names: set[str]
) -> list[gs.Node]:
    """Return the nodes that read rows of codes, and disconnect the Gather."""
    nodes: list[gs.Node] = []

    def add(op: str, which: str, inputs: list[gs.Tensor], what: str, dtype: type, **attributes: int) -> gs.Variable:
        output = gs.Variable(fresh_name(f"{gather.name}.rows_{what}", tensors), dtype)
        nodes.append(gs.Node(op, fresh_name(f"{gather.name}.rows_{which}", names), attributes, inputs, [output]))
        return output

    ids, result = gather.inputs[1], gather.outputs[0]
    rows = add("Gather", "gather", [codes, ids], "int8", np.int8)
    floats = add("Cast", "cast", [rows], "float", np.float32, to=int(TensorProto.FLOAT))
    factor = add("Gather", "gather_scale", [scales, ids], "scale", np.float32)
    column = add("Unsqueeze", "unsqueeze", [factor, last], "scale_column", np.float32)
    gather.inputs.clear()
    gather.outputs.clear()
    nodes.append(gs.Node("Mul", str(gather.name), {}, [floats, column], [result]))
    return nodes
