"""What an integer target of the tests accepts: the CPU's operators, few enough to be read here."""

from passes.ir.rules import Rules

__all__ = ["RULES"]

RULES = Rules(
    linear=frozenset({"Conv", "Gemm", "MatMul"}),
    compute=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid"}),
    moving=frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Resize", "Split"}),
    absorbable=frozenset({"Relu", "Clip"}),
    float_outputs=frozenset({"Gemm", "MatMul"}),
)
