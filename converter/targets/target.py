"""What is known of a deployment target: facts that writers and rules read, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from converter.qdq.weights import Storage
from passes.ir.rules import Rules

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """A deployment target.

    Attributes:
        name: how it is asked for.
        description: one line.
        rules: its integer kernels; see `passes.ir.rules.Rules`.
        runtime: oldest version of the runtime that takes what is written.
        int4: form of 4-bit weights: cast to INT8, read by DequantizeLinear, or none: stored as INT8.
        matmulnbits: whether it runs the MatMulNBits operator.
        static_shapes: no dimension may be open; the batch becomes 1.
        opset: newest operator set it takes; None: whatever its onnxruntime does.
        whole: the provider has to take every node.
        provider: which provider runs it on this kind of machine; None: only its rules can be checked.
        variants: what differs between the processors or providers that the target covers.
        sources: where each of these facts comes from, by field; `Rules` fields too.
    """

    name: str
    description: str
    rules: Rules
    runtime: str
    int4: Literal["cast", "dequantize", "none"] = "cast"
    matmulnbits: bool = False
    static_shapes: bool = False
    opset: int | None = None
    whole: bool = False
    provider: Literal["cpu", "openvino", "qnn", "web"] | None = None
    variants: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def storage(self, wanted: Storage) -> Storage:
        """The form of weights in the file where the recipe wants this one."""
        if wanted == "matmulnbits" and self.matmulnbits:
            return wanted
        if wanted == "packed" and self.int4 == "cast" and self.rules.narrowest == 2:
            return wanted
        if wanted in {"int8", "dequantize"}:
            return wanted
        return "int8" if self.int4 == "none" else self.int4
