"""Store embedding tables, such as that of a language model's words, as int8 with a scale for each row.

    codes -> Gather(ids) -> Cast(FLOAT) -> Mul(scale of each id)

Rows are rounded to nearest on symmetric grids, s = max |row| / 127, as Q8BERT does (Zafrir et al. 2019,
arXiv:1910.06188, equation 1, there with one scale for the table). Only rows that are read become floats. A table that
is the weight of a layer too gets the codes of that layer instead (`converter.qdq.tables`).

Not every table holds embeddings: it may hold indices, anchors of boxes or other numbers that must be exact. So
every way from the rows to an output has to pass a layer or a normalization, and before it arithmetic and moves alone.
"""

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
from passes.ir.surgery import fresh_name, graph_output_names, is_default_domain, tensor_names
from passes.numerics.error import decibel
from passes.report import PassReport
from passes.statistics import Stats

__all__ = ["Embeddings"]

_LARGEST_CODE = 127
_CHUNK = 1 << 22  # values that are rounded together
_ROW_BELOW = 5.0  # dB: of 30,000 words of a sentence encoder, one has 29.7 dB, and 0.1 % have 36 and less
_NODES = 1000  # bytes of the nodes that read codes, at most
_ENDS = frozenset(
    {
        *("Attention", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "GroupNormalization"),
        *("InstanceNormalization", "LSTM", "LayerNormalization", "LpNormalization", "MatMul", "MultiHeadAttention"),
        *("RMSNormalization", "RNN", "SimplifiedLayerNormalization", "SkipLayerNormalization"),
    }
)
_ARITHMETIC = frozenset(
    {
        *("Add", "Div", "Dropout", "Elu", "Erf", "Gelu", "GlobalAveragePool", "Identity", "LeakyRelu", "Mean", "Mul"),
        *("Neg", "Pow", "ReduceMean", "ReduceSum", "Relu", "Sigmoid", "Softmax", "Sqrt", "Sub", "Sum", "Swish", "Tanh"),
    }
)
_MEANS = frozenset({"ReduceMean", "GlobalAveragePool"})  # of the last axis, as `normalise` writes it
_MOVES = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
        "Unsqueeze",
    }
)


@dataclass(frozen=True)
class Embeddings(GraphPass):
    """Store embedding tables in 8 bits, on targets that gather rows of codes.

    Tables of less than 16 KB stay in float, and so do those whose values must be exact, and those of a Gather that the
    recipe excludes.

    Attributes:
        least_db: SQNR in dB that a table must keep, and each of its rows but for 5 dB. Normal values have 40 and more.
            A row with one value far above the others can lose the rest.
    """

    name: ClassVar[str] = "embeddings"

    least_db: float = 30.0

    def __post_init__(self) -> None:
        if not self.least_db >= 0:
            raise ValueError(f"least_db must be 0 or more, not {self.least_db}")

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Replace each Gather of a table's rows by one of its codes."""
        notes = []
        for table in model.lone_tables() if model.rules.gathers_codes else ():
            size = "x".join(map(str, table.shape))
            if not _saves(table):
                continue
            rounded = _why_exact(model, table) or self._rounded(table)
            if isinstance(rounded, str):
                notes.append(f"{table.name} ({size}): {rounded}, so it stays in float")
                continue
            codes, scales, sqnr = rounded
            notes.append(f"{table.name} ({size}): 8 bits a row, {sqnr:.1f} dB")
            _gather_codes(model.graph, table, codes, scales)
        return PassReport(self.name, {}, dict.fromkeys(model.layers(), "no embedding table"), tuple(notes))

    def _rounded(self, table: gs.Constant) -> tuple[NDArray[np.int8], NDArray[np.float32], float] | str:
        """Return codes [r, k], scales [r] and the SQNR in dB, or why the table is not rounded."""
        floats = np.asarray(loaded(table._values), np.float32)
        codes, scales = np.empty(floats.shape, np.int8), np.empty(len(floats), np.float32)
        energies = np.zeros((2, len(floats)))  # of the rows and of their errors
        for part in _chunks(floats):
            values = floats[part]
            largest = np.abs(values).max(axis=1, initial=0.0)
            if not np.isfinite(largest).all():
                return "it has NaN or Inf"
            scales[part] = np.maximum(largest / _LARGEST_CODE, np.finfo(np.float32).tiny)
            codes[part] = np.rint(values / scales[part, None]).clip(-_LARGEST_CODE, _LARGEST_CODE)
            for energy, of in zip(energies, (values, values - codes[part] * scales[part, None]), strict=True):
                energy[part] = np.square(of, dtype=np.float64).sum(axis=1)
        row = int(np.argmax(energies[1] / np.maximum(energies[0], np.finfo(np.float64).tiny)))
        worst, sqnr = decibel(*energies[:, row]), decibel(*energies.sum(axis=1))
        if sqnr < self.least_db:
            return f"it would keep {sqnr:.1f} of {self.least_db:g} dB"
        if worst < self.least_db - _ROW_BELOW:
            return f"row {row} would keep {worst:.1f} of {self.least_db - _ROW_BELOW:g} dB"
        return codes, scales, sqnr


def _chunks(table: NDArray[np.float32]) -> Iterator[slice]:
    rows = max(1, _CHUNK // max(table.shape[1], 1))
    return (slice(start, start + rows) for start in range(0, len(table), rows))


def _saves(table: gs.Constant) -> bool:
    rows, width = table.shape
    return bool(rows * (width + 4) + _NODES < 4 * rows * width)


def _why_exact(model: Model, table: gs.Constant) -> str | None:
    """Return why the values of a table must be exact, or None if rounding them is like rounding activations."""
    outputs = graph_output_names(model.graph)
    excluded = [node.name for node in table.outputs if node.name in model.float_tables]
    if excluded:
        return f"{excluded[0]} is excluded"
    waiting = [node.outputs[0] for node in table.outputs]
    seen = {id(tensor) for tensor in waiting}
    while waiting:
        tensor = waiting.pop()
        if tensor.name in outputs:
            return f"no layer or normalization is between it and output {tensor.name}"
        for node in tensor.outputs:
            if _ends(node, tensor):
                continue
            if not _goes_on(node, tensor):
                return f"{node.op} {node.name} may need exact values"
            waiting += [output for output in node.outputs if id(output) not in seen]
            seen |= {id(output) for output in node.outputs}
    return None


def _ends(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node is a layer or a normalization, or the first node of one that is spelled out: x - mean(x)."""
    if node.op in _ENDS:
        return True
    means = [each.outputs[0] for each in tensor.outputs if each.op in _MEANS]
    centred = [each for each in tensor.outputs if each.op == "Sub" and any(each.inputs[1] is mean for mean in means)]
    return bool(centred) and (node.op in _MEANS or any(each is node for each in centred))


def _goes_on(node: gs.Node, tensor: gs.Tensor) -> bool:
    """Whether a node computes with the tensor as with any activation."""
    if not is_default_domain(node):
        return False
    if node.op == "Cast":
        return node.attrs.get("to") in {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
    as_parameter = node.op != "Concat" and any(each is tensor for each in node.inputs[1:])
    return node.op in _ARITHMETIC or (node.op in _MOVES and not as_parameter)


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
