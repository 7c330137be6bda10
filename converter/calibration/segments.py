"""Cut the graph into segments: each linear layer with the operators that follow it, as a graph of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.onnx_graph import node_bodies

__all__ = ["Kind", "Segment", "cut", "submodel"]


@dataclass(frozen=True)
class Kind:
    """What is known of a tensor that crosses from one segment to another.

    Attributes:
        dtype: Type of its elements.
        rank: Number of its axes. None for a sequence of tensors.
    """

    dtype: np.dtype[Any]
    rank: int | None

    @classmethod
    def of(cls, value: NDArray[Any] | list[NDArray[Any]]) -> "Kind":
        """Return the kind of a value. The elements of an empty sequence count as float32."""
        if isinstance(value, list):
            return cls(value[0].dtype if value else np.dtype(np.float32), None)
        return cls(value.dtype, value.ndim)


@dataclass(frozen=True)
class Segment:
    """Nodes that run together: one layer and the operators that follow it, up to the next layer.

    Attributes:
        nodes: Names of the nodes, in topological order.
        inputs: Tensors that the segment reads from earlier segments or from the graph's inputs.
        outputs: Tensors that later segments read.
        layer: The layer that starts the segment. None for the segment before the first layer.
        released: Tensors that no later segment reads.
    """

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str | None
    released: tuple[str, ...]


def cut(graph: gs.Graph, layers: Mapping[str, Linear]) -> list[Segment]:
    """Cut a graph into segments, in the order in which they run.

    The first segment holds what runs before any of ``layers``. Each other segment starts with one of them. Every other
    operator runs as soon as its inputs exist, so that a layer's tensors live as short as possible.
    """
    pieces = _schedule(graph, layers)
    produced_in = {
        str(tensor.name): index for index, piece in enumerate(pieces) for node in piece for tensor in node.outputs
    }
    last_read: dict[str, int] = {}
    reads: list[dict[str, None]] = []
    for index, piece in enumerate(pieces):
        names = {
            str(tensor.name): None
            for node in piece
            for tensor in node.inputs
            if isinstance(tensor, gs.Variable) and tensor.name
        }
        reads.append(names)
        last_read.update(dict.fromkeys(names, index))
    segments = []
    for index, piece in enumerate(pieces):
        outputs = [
            str(tensor.name) for node in piece for tensor in node.outputs if last_read.get(tensor.name, -1) > index
        ]
        segments.append(
            Segment(
                nodes=tuple(str(node.name) for node in piece),
                inputs=tuple(name for name in reads[index] if produced_in.get(name, -1) < index),
                outputs=tuple(outputs),
                layer=str(piece[0].name) if piece and piece[0].name in layers else None,
                released=tuple(name for name in reads[index] if last_read[name] == index),
            )
        )
    return segments


def _schedule(graph: gs.Graph, layers: Mapping[str, Linear]) -> list[list[gs.Node]]:
    waiting = list(graph.nodes)
    ready = {str(tensor.name) for tensor in graph.inputs}
    pieces: list[list[gs.Node]] = [[]]

    def can_run(node: gs.Node) -> bool:
        return all(isinstance(tensor, gs.Constant) or not tensor.name or tensor.name in ready for tensor in node.inputs)

    while waiting:
        runnable = [node for node in waiting if can_run(node)]
        others = [node for node in runnable if node.name not in layers]
        chosen = others or runnable[:1]
        if not others:
            pieces.append([])
        pieces[-1].extend(chosen)
        names = {node.name for node in chosen}
        waiting = [node for node in waiting if node.name not in names]
        ready.update(str(tensor.name) for node in chosen for tensor in node.outputs)
    return pieces


def submodel(model: Model, segment: Segment, kinds: Mapping[str, Kind]) -> Model:
    """A segment as a model of its own. It shares its weights with ``model``, but not its nodes.

    Args:
        model: The whole model.
        segment: The part to cut out.
        kinds: Types of the segment's input tensors, by name. onnxruntime infers the other types.
    """
    tensors: dict[str, gs.Tensor] = {}
    by_name = {node.name: node for node in model.graph.nodes}
    ranked = any(True for name in segment.nodes for _ in node_bodies(by_name[name]))

    def tensor_of(tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return gs.Variable.empty()
        if tensor.name not in tensors:
            if isinstance(tensor, gs.Constant):
                tensors[tensor.name] = gs.Constant(tensor.name, tensor.values)
            else:
                tensors[tensor.name] = _variable(tensor.name, kinds.get(tensor.name), ranked=ranked)
        return tensors[tensor.name]

    nodes = []
    for name in segment.nodes:
        node = by_name[name]
        nodes.append(
            gs.Node(
                node.op,
                node.name,
                attrs=dict(node.attrs),
                inputs=[tensor_of(tensor) for tensor in node.inputs],
                outputs=[tensor_of(tensor) for tensor in node.outputs],
                domain=node.domain,
            )
        )
    graph = gs.Graph(
        nodes=nodes,
        inputs=[tensors[name] for name in segment.inputs],
        outputs=[tensors[name] for name in segment.outputs],
        opset=model.graph.opset,
        import_domains=model.graph.import_domains,
    )
    return Model(
        graph=graph,
        rules=model.rules,
        quantized={name: model.quantized[name] for name in segment.nodes if name in model.quantized},
        activation_qparams={
            name: model.activation_qparams[name] for name in tensors if name in model.activation_qparams
        },
        float_activations=model.float_activations,
    )


def _variable(name: str, kind: Kind | None, *, ranked: bool) -> gs.Variable:
    """Make a tensor. Its rank is written only where it is needed, because onnxruntime would fuse other operators."""
    if kind is None:
        return gs.Variable(name)
    variable = gs.Variable(name, kind.dtype, [None] * kind.rank if ranked and kind.rank is not None else None)
    if kind.rank is None:
        variable.type = "sequence_type"
    return variable
