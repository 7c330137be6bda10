"""Builder of small graphs for the zoo, with seeded weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["CHANNELS", "OPSET", "SIDE", "Net"]

CHANNELS, SIDE = 8, 10
OPSET, _IR = 21, 10
_IMAGE = ("n", CHANNELS, SIDE, SIDE)


class Net:
    """Builder of a graph. Every method adds nodes or constants and returns the name of the tensor."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.rng = np.random.default_rng(seed)

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str, *shape: int) -> str:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 10.0
        return self.constant(name, (self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def node(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> str:
        """Add a node. Without a name, it is called after its operator and number, as its first output is."""
        name = name or f"{op.lower()}{len(self.nodes)}"
        names = [name] + [f"{name}_{index}" for index in range(1, outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return name

    def conv(self, x: str, inputs: int = CHANNELS, outputs: int = CHANNELS, dims: int = 2, **attributes: Any) -> str:
        attributes = {"pads": [1] * 2 * dims, **attributes}
        name = f"conv{len(self.nodes)}"
        shape = (outputs, inputs // attributes.get("group", 1), *[3] * dims)
        self.nodes.append(
            helper.make_node(
                "Conv",
                [x, self.weight(f"{name}.weight", *shape), self.weight(f"{name}.bias", outputs)],
                [name],
                name=name,
                **attributes,
            )
        )
        return name

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        name = f"fc{len(self.nodes)}"
        weights = [self.weight(f"{name}.weight", outputs, inputs), self.weight(f"{name}.bias", outputs)]
        self.nodes.append(helper.make_node("Gemm", [x, *weights], [name], name=name, transB=1))
        return name

    def model(
        self, outputs: list[str] | str, inputs: Mapping[str, tuple[Any, ...]] | None = None, opset: int = OPSET
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "zoo",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in (inputs or {"x": _IMAGE}).items()
            ],
            [
                helper.make_empty_tensor_value_info(name)  # shape inference fills in its type
                for name in ([outputs] if isinstance(outputs, str) else outputs)
            ],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=max(_IR, helper.find_min_ir_version_for(imports))
        )
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(inferred)
        return inferred
