"""What each execution provider takes, as data. Writers and passes read it; nothing else knows a target's name."""

from dataclasses import dataclass

from passes.errors import TargetError
from passes.placement import Rules

__all__ = ["TARGETS", "Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """A deployment target: its name, what it is, and its integer kernels."""

    name: str
    description: str
    rules: Rules


_CPU = Rules(
    linear=frozenset({"Conv", "Gemm", "MatMul"}),
    compute=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Softmax"}),
    moving=frozenset(
        {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize", "Split"}
    ),
    absorbable=frozenset({"Relu", "Clip"}),
    float_outputs=frozenset({"Gemm", "MatMul"}),
)

TARGETS = {
    target.name: target
    for target in (
        Target("cpu", "onnxruntime CPU execution provider: uint8 activations, int8 per-channel weights", _CPU),
    )
}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        TargetError: there is none.
    """
    if name not in TARGETS:
        raise TargetError(f"no target is named {name!r}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]
