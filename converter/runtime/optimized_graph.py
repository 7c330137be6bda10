"""The graph that onnxruntime runs: what its optimizer made of the linear nodes of a file."""

from pathlib import Path

import onnx
from onnx import NodeProto

from converter.model_io.scratch import scratch_folder
from converter.qdq.stored_weights import INTEGER_OPS, StoredWeight, Tensors, find_weight, layer_roles, type_name
from converter.runtime.session import open_session
from passes.errors import ModelError

__all__ = ["OptimizedGraph"]


class OptimizedGraph:
    """The graph after onnxruntime's CPU optimizer. If the file cannot be loaded, there is none, and a ``problem``."""

    def __init__(self, graph: Tensors | None, problem: str = "") -> None:
        self.graph = graph
        self.problem = problem
        nodes = graph.nodes if graph is not None else ()
        self._by_output = {name: node for node in nodes for name in node.output}
        self._integer = [node for node in nodes if node.op_type in INTEGER_OPS]
        self._by_name: dict[str, list[NodeProto]] = {}
        for node in nodes:  # a node that replaces another has its name, or that name and "_token_1"
            self._by_name.setdefault(node.name.partition("_token_")[0], []).append(node)
        self._computed = _computed_constants(graph) if graph is not None else frozenset[str]()

    @classmethod
    def open(cls, path: onnx.ModelProto | Path) -> "OptimizedGraph":
        """Optimize a file or a model in memory, and read the resulting graph."""
        with scratch_folder() as folder:
            optimized = folder / "optimized.onnx"
            try:
                open_session(path, threads=1, optimized=optimized)
            except ModelError as error:
                return cls(None, str(error))
            return cls(Tensors.of(onnx.load_model(optimized, load_external_data=False).graph))

    def integer_node(self, node: NodeProto, weight: StoredWeight) -> NodeProto | None:
        """The integer operator that a node became. It is found by name, else by output, else by weight."""
        candidates = self._by_name.get(node.name, []) if node.name else []
        if not candidates:
            path = set(weight.path)
            readers = [other for other in self._integer if _weight_of(other) in path]
            candidates = [self._by_output[name] for name in node.output if name in self._by_output] or readers
        return next((other for other in candidates if other.op_type in INTEGER_OPS), None)

    def dequantizes_every_run(self, weight: StoredWeight) -> bool:
        """Whether this graph still computes a layer's weight from its codes in every run.

        A layer may be fused under another name, so it is found by the tensors between its codes and its operator.
        """
        return not self._computed.isdisjoint(weight.path)

    def rounds_weight(self, node: NodeProto) -> str:
        """The integer type to which onnxruntime rounds the float weight of a node when it loads the file. Else "".

        It does this for a Conv, ConvTranspose or Gemm between quantized tensors; see `converter.qdq.activations`.
        """
        other = self._counterpart(node)
        if other is None or self.graph is None or layer_roles(other) is None:
            return ""
        stored = find_weight(other, self.graph)
        return "" if stored.codes is None or stored.is_float else stored.type

    def mixed_types(self, node: NodeProto) -> tuple[str, str] | None:
        """Integer types of a node's input and output in this graph, if they differ.

        onnxruntime turns int8 activations into uint8, except for those that several operators read. Integer kernels
        need equal types.
        """
        other = self._counterpart(node)
        if other is None or self.graph is None:
            return None
        maker = self.graph.makers.get(other.input[0])
        reader = next((each for each in self.graph.nodes if other.output[0] in each.input), None)
        if maker is None or reader is None or (maker.op_type, reader.op_type) != ("DequantizeLinear", "QuantizeLinear"):
            return None
        points = [self.graph.constants.get(each.input[2]) if len(each.input) > 2 else None for each in (maker, reader)]
        before, after = ("uint8" if point is None else type_name(point.data_type) for point in points)
        return None if before == after else (before, after)

    def _counterpart(self, node: NodeProto) -> NodeProto | None:
        candidates = self._by_name.get(node.name, []) if node.name else []
        linear = [other for other in candidates if layer_roles(other) is not None]
        return linear[0] if linear else self._by_output.get(node.output[0])


def _computed_constants(graph: Tensors) -> frozenset[str]:
    """Tensors that the graph computes from constants only, so with the same result in every run."""
    found: set[str] = set()
    for node in graph.nodes:
        inputs = [name for name in node.input if name]
        if inputs and all(name in found or name in graph.constants for name in inputs):
            found.update(node.output)
    return frozenset(found)


def _weight_of(node: NodeProto) -> str:
    roles = layer_roles(node)
    return node.input[roles.weight] if roles is not None and roles.weight < len(node.input) else ""
