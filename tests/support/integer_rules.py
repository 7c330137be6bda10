"""Rules of an integer target for tests: a short list of the CPU's operators."""

from passes.ir.rules import Rules

__all__ = ["RULES"]

RULES = Rules(
    linear=frozenset({"Conv", "Gemm", "MatMul"}),
    compute=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid"}),
    moving=frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Resize", "Split"}),
    absorbable=frozenset({"Relu", "Clip"}),
    float_outputs=frozenset({"Gemm", "MatMul"}),
)
