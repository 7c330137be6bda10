"""Networks to walk through, and a layer pass that keeps what it was asked."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx

from passes.base import LayerPass, Problem, Solution
from passes.ir.model import Model
from passes.numerics.moments import Moments
from passes.weights.rtn import Rtn
from tests.support.networks import branches, images, quantize, resnet, shape_branch

__all__ = ["NETWORKS", "Recorded", "X", "solved"]

X = images(20, 3, 12, 12)  # batches of 16 and 4
NETWORKS: dict[str, tuple[onnx.ModelProto, Any]] = {
    "resnet": (resnet(), {"x": X}),
    "fixed_batch": (resnet(batch=8), {"x": X}),
    "branches": (branches(), {"a": images(20, 3, 8, 8), "b": images(20, 4)}),
    "fixed_batch_branches": (branches(batch=8), {"a": images(20, 3, 8, 8), "b": images(20, 4)}),
    "shape_branch": (shape_branch(), {"x": images(20, 3, 8, 8)}),
}


@dataclass(frozen=True)
class Recorded(LayerPass):
    """Rounds to the nearest and keeps what it was asked."""

    name: ClassVar[str] = "recorded"
    problems: dict[str, Problem] = field(default_factory=dict)

    def solve(self, problem: Problem) -> Solution:
        assert problem.layer.name not in self.problems, "solved twice"
        self.problems[problem.layer.name] = problem
        return Rtn(bits=self.bits).solve(problem)

    def moments(self, name: str) -> Moments:
        """Of the inputs of a layer that it has solved, about zero."""
        found = self.problems[name].moments
        assert found is not None
        return found.about(None)


def solved(name: str, layer_pass: LayerPass, *, ranges: bool) -> Model:
    """One of `NETWORKS` after the pass."""
    proto, data = NETWORKS[name]
    return quantize(proto, layer_pass, data, ranges=ranges)
