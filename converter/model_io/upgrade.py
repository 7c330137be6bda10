"""Raise the opset of a model node by node, with onnx's version converter.

A node whose definition is the same in both opsets stays as it is. Every other node is converted alone, as a model of
one node, and the nodes that replace it keep its name, its doc string and the names of its outputs. So nothing else of
the model changes: weights, metadata, other operators' names, subgraphs, models above 2 GB. Nodes in the bodies of If,
Loop and Scan are converted likewise.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import onnx
from onnx import NodeProto, TensorProto, TypeProto, ValueInfoProto, defs, helper, version_converter

from converter.model_io.check import runtime_ops
from converter.model_io.protobuf import constant_tensors, default_opset, is_default_domain, subgraphs, tensor_names
from converter.model_io.tensor_types import declared_types, inferred_types
from converter.model_io.upgrade_rules import upgraded_dropout, upgraded_group_norm, upgraded_resize
from passes.errors import ModelError, first_line

__all__ = ["IR_VERSION", "OPSET", "upgrade_opset"]

OPSET = 21  # the first opset with int4 and blocked DequantizeLinear
IR_VERSION = 10  # the IR version that came with opset 21

_RESIZED = {"Upsample", "Resize"}
_CONVERTED_AS = {"Hardmax": "Softmax"}  # the same change of its axis, for which the converter has no rule
_NOTHING: Mapping[str, TensorProto] = MappingProxyType({})


def upgrade_opset(model: onnx.ModelProto, name: str = "model") -> onnx.ModelProto:
    """Raise the default domain's opset of `model` to 21, in place. A newer opset stays.

    The IR version becomes the lowest that the opset needs, but at least 10. An onnx package that is newer than
    onnxruntime writes versions that onnxruntime refuses, even where nothing needs them.

    Operators of other domains (com.microsoft) do not change. Weights stay the same bit for bit.

    Returns:
        The same model.

    Raises:
        ModelError: There is no rule for one of the operators. The message quotes `name`.
    """
    before = default_opset(model)
    if before < OPSET:
        _Upgrade(name, before, set(tensor_names(model.graph))).graph(model.graph, inferred_types(model))
        others = [entry for entry in model.opset_import if not is_default_domain(entry.domain)]
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", OPSET), *others])
    official = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx.ml")]
    model.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(official, ignore_unknown=True))
    return model


@dataclass
class _Upgrade:
    """The upgrade of one model.

    Attributes:
        name: The model's name in messages.
        before: Its opset.
        taken: Names of its tensors.
    """

    name: str
    before: int
    taken: set[str]
    _cache: dict[bytes, onnx.GraphProto] = field(default_factory=dict)

    def graph(
        self, graph: onnx.GraphProto, types: Mapping[str, TypeProto], constants: Mapping[str, TensorProto] = _NOTHING
    ) -> None:
        """Upgrade the nodes of a graph and of its subgraphs, in place.

        Args:
            graph: The graph.
            types: Types of tensors of the outer graphs and of this one.
            constants: Constants of the outer graphs.
        """
        types, constants = {**types, **declared_types(graph)}, {**constants, **constant_tensors(graph)}
        nodes = []
        for node in graph.node:
            for body in subgraphs(node):
                self.graph(body, types, constants)
            nodes += self.upgraded(node, types, constants)
        del graph.node[:]
        graph.node.extend(nodes)

    def upgraded(
        self,
        node: NodeProto,
        types: Mapping[str, TypeProto],
        constants: Mapping[str, TensorProto],
    ) -> list[NodeProto]:
        """Return the nodes that replace `node`."""
        if not is_default_domain(node.domain) or node.op_type in runtime_ops(self.before):
            return [node]
        if _is_unchanged(node.op_type, self.before):
            return [node]
        if node.op_type in _RESIZED and self.before < 11:
            return upgraded_resize(node, constants, self.fresh)
        if node.op_type == "Dropout" and self.before < 12 and len(node.output) > 1 and node.output[1]:
            like = types.get(node.input[0], TypeProto()).tensor_type.elem_type or TensorProto.FLOAT
            return upgraded_dropout(node, like if self.before < 10 else TensorProto.BOOL, self.fresh)
        if node.op_type == "GroupNormalization":
            return upgraded_group_norm(node, self.fresh)
        if any(True for _ in subgraphs(node)):
            raise self.refusal(node, f"the bodies of {node.op_type} were defined otherwise")
        if node.op_type == "BatchNormalization" and len([name for name in node.output if name]) > 1:
            raise ModelError(
                f"{self.name}: {node.name or node.output[0]} is in training mode, since it also computes statistics; "
                "call model.eval() before exporting"
            )
        try:
            return self.renamed(node, self.converted(node, types))
        except Exception as error:  # RuntimeError or ConvertError, whose text has a C++ source line
            raise self.refusal(node, _reason(error)) from error

    def converted(self, node: NodeProto, types: Mapping[str, TypeProto]) -> onnx.GraphProto:
        """Convert a model of one node, with tensors i0, i1, ... and o0, o1, ... so that equal nodes share a result."""
        op = _CONVERTED_AS.get(node.op_type, node.op_type)
        alone = NodeProto(op_type=op)
        alone.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        alone.input.extend(f"i{index}" if name else "" for index, name in enumerate(node.input))
        alone.output.extend(f"o{index}" if name else "" for index, name in enumerate(node.output))
        inputs = [
            ValueInfoProto(name=f"i{index}", type=_rank_only(types.get(name)))
            for index, name in enumerate(node.input)
            if name
        ]
        outputs = [ValueInfoProto(name=name) for name in alone.output if name]
        graph = helper.make_graph([alone], "node", inputs, outputs)
        key = graph.SerializeToString(deterministic=True)
        if key not in self._cache:
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.before)], ir_version=8)
            self._cache[key] = version_converter.convert_version(model, OPSET).graph
        converted = onnx.GraphProto()
        converted.CopyFrom(self._cache[key])
        for new in converted.node:
            new.op_type = node.op_type if new.op_type == op else new.op_type
        return converted

    def renamed(self, node: NodeProto, converted: onnx.GraphProto) -> list[NodeProto]:
        """The converted nodes with the names of `node`, its outputs and its inputs."""
        names = {"": ""} | {f"i{index}": name for index, name in enumerate(node.input)}
        names |= {
            value.name: name
            for value, name in zip(converted.output, (name for name in node.output if name), strict=True)
        }
        constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in converted.initializer]
        nodes = [*constants, *converted.node]
        main = max(range(len(nodes)), key=lambda index: (nodes[index].op_type == node.op_type, index))
        roles = dict(zip(nodes[main].input, _formal_inputs(nodes[main].op_type), strict=False))
        for new in nodes:
            for name in new.output:
                if name not in names:
                    names[name] = self.fresh(f"{_first_output(node)}_{roles.get(name, new.op_type.lower())}")
        for index, new in enumerate(nodes):
            new.input[:] = [names[name] for name in new.input]
            new.output[:] = [names[name] for name in new.output]
            new.name = node.name if index == main else ""
        nodes[main].doc_string = node.doc_string
        nodes[main].metadata_props.extend(node.metadata_props)
        return nodes

    def fresh(self, name: str) -> str:
        """Return `name`, or `name` with a number if it is taken."""
        candidate, count = name, 0
        while candidate in self.taken:
            count += 1
            candidate = f"{name}_{count}"
        self.taken.add(candidate)
        return candidate

    def refusal(self, node: NodeProto, reason: str) -> ModelError:
        where = node.name or _first_output(node)
        return ModelError(
            f"{self.name}: opset {self.before} cannot be upgraded to {OPSET}: {node.op_type} {where!r}: {reason}; "
            f"export the model at opset {OPSET}"
        )


# --- definitions of operators ----------------------------------------------------------------------------------------


@functools.cache
def _is_unchanged(op: str, before: int) -> bool:
    """Whether a node of this opset is a valid node of the new one, and means the same."""
    try:
        old, new = defs.get_schema(op, before, ""), defs.get_schema(op, OPSET, "")
    except defs.SchemaError:
        return False
    return not new.deprecated and (old.since_version == new.since_version or _signature(old) == _signature(new))


def _signature(schema: defs.OpSchema) -> object:
    """What a node of this definition may have. Definitions that differ in more always differ in this as well."""
    attributes = {
        name: (attribute.type, attribute.required, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }
    formal = [[(one.name, one.type_str, one.option) for one in side] for side in (schema.inputs, schema.outputs)]
    return attributes, formal


def _formal_inputs(op: str) -> list[str]:
    try:
        return [one.name for one in defs.get_schema(op, OPSET, "").inputs]
    except defs.SchemaError:
        return []


def _first_output(node: NodeProto) -> str:
    return next((name for name in node.output if name), node.op_type)


# --- types -----------------------------------------------------------------------------------------------------------


def _rank_only(declared: TypeProto | None) -> TypeProto:
    """A tensor's element type and rank, which are all that a conversion may depend on. Unknown types are float32."""
    if declared is None or not declared.tensor_type.elem_type:
        return helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    tensor = declared.tensor_type
    return helper.make_tensor_type_proto(
        tensor.elem_type, [None] * len(tensor.shape.dim) if tensor.HasField("shape") else None
    )


def _reason(error: BaseException) -> str:
    """The converter's message without the C++ source line before it (`x.h:12: f: Assertion ... failed: why`)."""
    return first_line(error).rsplit("failed: ", 1)[-1]
