"""Subgraphs of the float reference, cut at every tensor that the quantized model also has.

A subgraph between cuts is usually one layer with the batch normalization and the activation function behind it. It
reads the *quantized* network's tensors and computes in float what the quantized network computed in integers from the
same values. So the difference is the error that this layer adds, without the errors of the layers before it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.qdq.stored_weights import Tensors, find_weights
from converter.runtime.session import open_session
from passes.ir.bodies import enclose, expose, tensors_read
from passes.ir.surgery import fresh_name

__all__ = ["Subgraph", "Subgraphs", "find_subgraphs"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Subgraph:
    """The nodes that compute one tensor from the cuts before it.

    Attributes:
        tensor: The tensor that the subgraph computes.
        nodes: Indices of the nodes in the reference's graph, in its order.
        reads: Tensors at which the subgraph is cut.
        layers: Names of the linear layers among the nodes.
    """

    tensor: str
    nodes: tuple[int, ...]
    reads: tuple[str, ...]
    layers: tuple[str, ...]


def find_subgraphs(graph: onnx.GraphProto, cuts: Iterable[str]) -> dict[str, Subgraph]:
    """Find the subgraph of every tensor in ``cuts`` that a node computes."""
    given = set(cuts)
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    linear = _linear_nodes(graph)
    subgraphs = {}
    for tensor in given & makers.keys():
        nodes: set[int] = set()
        reads: dict[str, None] = {}
        waiting = [makers[tensor]]
        while waiting:
            index = waiting.pop()
            if index in nodes:
                continue
            nodes.add(index)
            for name in tensors_read(graph.node[index]):
                if name in given:
                    reads[name] = None
                elif name in makers:
                    waiting.append(makers[name])
        ordered = tuple(sorted(nodes))
        subgraphs[tensor] = Subgraph(
            tensor, ordered, tuple(reads), tuple(linear[index] for index in ordered if index in linear)
        )
    return subgraphs


class Subgraphs:
    """All subgraphs of a reference, run in one session on given tensors.

    Args:
        reference: The whole float model.
        cuts: Tensors at which it is cut.
        types: Element types of its tensors by name, as numbers of onnx.TensorProto.
        ranks: Numbers of axes of the tensors at the cuts. A Scan needs them.
    """

    def __init__(
        self, reference: onnx.ModelProto, cuts: Iterable[str], types: Mapping[str, int], ranks: Mapping[str, int]
    ) -> None:
        cuts = list(cuts)
        self.subgraphs = find_subgraphs(reference.graph, cuts)
        model = onnx.ModelProto()
        model.CopyFrom(reference)
        graph = model.graph
        graph.ClearField("value_info")
        graph.ClearField("output")
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in self.subgraphs)
        expose(graph.node)
        taken = {name for node in graph.node for name in [*node.input, *node.output]}
        self._given = {tensor: fresh_name(f"{tensor}/given", taken) for tensor in cuts}
        read = set()
        for node in graph.node:
            read |= self._given.keys() & set(node.input)
            node.input[:] = [self._given.get(name, name) for name in node.input]
        enclose(graph)
        for tensor in sorted(read):
            shape = [None] * ranks[tensor]
            graph.input.append(onnx.helper.make_tensor_value_info(self._given[tensor], types[tensor], shape))
        self._session = open_session(model, arena=False)
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._types = {
            self._given[tensor]: onnx.helper.tensor_dtype_to_np_dtype(types[tensor]) for tensor in sorted(read)
        }

    def run(self, tensors: Mapping[str, Array], feeds: Mapping[str, Array], batch: int | None) -> dict[str, Array]:
        """Compute every subgraph on ``tensors``.

        Args:
            tensors: Tensors of the quantized model by the reference's names.
            feeds: The model's own inputs, with the same number of rows.
            batch: The only batch size that the reference takes, or None if it takes any.

        Returns:
            The output of each subgraph by its name.
        """
        given = {self._given[name]: array for name, array in tensors.items() if name in self._given}
        known = {
            name: array.astype(self._types[name], copy=False) for name, array in given.items() if name in self._types
        }
        fed = {name: array for name, array in {**feeds, **known}.items() if name in self._inputs}
        outputs = list(self.subgraphs)
        if batch is None or batch == (count := len(next(iter(feeds.values())))):
            return dict(zip(outputs, self._session.run(outputs, fed), strict=True))
        portions = [
            self._session.run(outputs, {name: _filled(array[start:], batch) for name, array in fed.items()})
            for start in range(0, count, batch)
        ]
        joined = [np.concatenate(parts)[:count] for parts in zip(*portions, strict=True)]
        return dict(zip(outputs, joined, strict=True))


def _linear_nodes(graph: onnx.GraphProto) -> dict[int, str]:
    """Return the names of the linear layers with a constant weight by their index in the graph."""
    tensors = Tensors.of(graph)
    return {
        index: node.name or node.output[0]
        for index, node in enumerate(graph.node)
        if any(weight.codes is not None for weight in find_weights(node, tensors))
    }


def _filled(rows: Array, batch: int) -> Array:
    """Return the first ``batch`` rows. If there are fewer, the last row is repeated."""
    rows = rows[:batch]
    return np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), axis=0)])
