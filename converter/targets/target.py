"""A deployment target: facts that the writer and the rules read, each with its source."""

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
        name: Name of the target.
        description: One line.
        rules: Integer kernels of the target; see `passes.ir.rules.Rules`.
        runtime: Oldest version of the runtime that accepts the written files.
        int4: Form of 4-bit weights: cast to INT8, read by DequantizeLinear, or none, which means stored as INT8.
        matmulnbits: Whether the target runs the MatMulNBits operator.
        float16: What float16 is on the target: "compute", where it has kernels, or "store": weights are stored so,
            and become float32 when the file loads.
        static_shapes: Whether all dimensions must be fixed. Then the batch becomes 1.
        opset: Newest operator set of the target. None: that of its onnxruntime.
        floats_only: Why the target runs float operators only, so that recipes that quantize activations are refused.
            Empty: they are not.
        whole: Whether the provider must take every node.
        sparsity: Pattern of zeros that the target computes faster, n:m along the input channels. Empty: none.
        provider: Provider that runs the target on this kind of machine. None: only its rules can be checked.
        variants: Differences between the processors or providers of the target.
        sources: Source of each of these facts, and of each fact in `Rules`, by field.
    """

    name: str
    description: str
    rules: Rules
    runtime: str
    int4: Literal["cast", "dequantize", "none"] = "cast"
    matmulnbits: bool = False
    float16: Literal["compute", "store"] = "store"
    static_shapes: bool = False
    opset: int | None = None
    floats_only: str = ""
    whole: bool = False
    sparsity: str = ""
    provider: Literal["cpu", "openvino", "qnn", "web"] | None = None
    variants: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def cpu_kernels(self) -> bool:
        """Whether onnxruntime's CPU kernels run the file, on a processor or in a browser."""
        return self.provider in {"cpu", "web"}

    @property
    def quantizes_in_runs(self) -> bool:
        """Whether the target runs MatMulInteger on codes of any size and DynamicQuantizeLSTM, an operator of its own.

        onnxruntime's CPU kernels do.
        """
        return self.cpu_kernels and self.matmulnbits and self.rules.pair_sum is None

    def storage(self, wanted: Storage) -> Storage:
        """The storage form of weights in the file, if the recipe wants this one."""
        if wanted == "matmulnbits" and self.matmulnbits:
            return wanted
        if wanted == "dynamic" and self.quantizes_in_runs:
            return wanted
        if wanted == "packed" and self.int4 == "cast" and self.rules.narrowest == 2:
            return wanted
        if wanted == "int8" or (wanted == "dequantize" and not self.floats_only):
            return wanted
        return "int8" if self.int4 == "none" else self.int4
