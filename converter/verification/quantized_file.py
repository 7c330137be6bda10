"""A quantized file, with the queries that the rules of targets need."""

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto

from converter.qdq.stored_weights import StoredWeight, Tensors, find_weights, layer_roles
from passes.ir.rules import Rules

__all__ = ["QuantizedFile"]


class QuantizedFile:
    """A model, with the queries that the rules need."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.tensors = Tensors.of(model.graph)
        self.outputs = {value.name for value in model.graph.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.tensors.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def activations(self) -> Iterator[tuple[NodeProto, TensorProto | None]]:
        """QuantizeLinear nodes of computed tensors, with their zero points."""
        for node in self.tensors.nodes:
            if node.op_type == "QuantizeLinear" and node.input[0] not in self.tensors.constants:
                yield node, self.tensors.constants.get(node.input[2]) if len(node.input) > 2 else None

    def layers(self) -> Iterator[tuple[NodeProto, StoredWeight, bool]]:
        """Weights that are stored as codes, with their nodes, and whether weight and input fit an integer kernel.

        An LSTM, GRU or RNN comes once for each of its weights W and R that has codes.
        """
        for node in self.tensors.nodes:
            if layer_roles(node) is None or node.op_type == "MatMulNBits":
                continue
            for weight in find_weights(node, self.tensors):
                if weight.codes is None or weight.is_float:
                    continue
                integer = any(step.op_type == "DequantizeLinear" for step in weight.operators)
                yield node, weight, integer and self.dequantized(node.input[0])

    def dequantized(self, name: str) -> bool:
        """Whether a tensor is dequantized from computed integers."""
        maker = self.tensors.makers.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in self.tensors.makers

    def rounded(self, name: str) -> bool:
        """Whether only quantizers read a tensor."""
        readers = self.readers.get(name, [])
        return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)

    def behind(self, quantize: NodeProto) -> Iterator[NodeProto]:
        """The nodes that read the dequantized result of a quantizer."""
        for dequantize in self.readers.get(quantize.output[0], []):
            yield from self.readers.get(dequantize.output[0], [])

    def on_integers(self, rules: Rules) -> frozenset[str]:
        """Tensors that the target's integer kernels write: of layers, operators that read codes, clamps behind them."""
        written = {node.output[0] for node, _, integer in self.layers() if integer and node.op_type in rules.linear}
        for node in self.tensors.nodes:
            codes = node.op_type in rules.compute | rules.moving and any(map(self.dequantized, node.input))
            if codes or (node.op_type in rules.absorbable and node.input[0] in written):
                written.update(node.output)
        return frozenset(written)
