"""Replace operators without an integer kernel with equivalent ones that have one.

Every operator without an integer kernel would run in float: its inputs are dequantized, and its output is quantized
again.
"""

from dataclasses import dataclass
from typing import ClassVar

from passes.base import GraphPass
from passes.graph.integer_forms.batchnorm import norms_as_convolutions
from passes.graph.integer_forms.conv_transpose import transposed_as_convolutions
from passes.graph.integer_forms.hard_swish import hard_functions_as_clips
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.model import Model
from passes.report import PassReport
from passes.statistics import Stats

__all__ = ["IntegerForms"]


@dataclass(frozen=True)
class IntegerForms(GraphPass):
    """Integer forms of BatchNormalization that was not folded, HardSwish, HardSigmoid and ConvTranspose."""

    name: ClassVar[str] = "integer_forms"

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rewrite the graph. The outputs of all layers stay the same.

        Raises:
            ModelError: The shapes of the graph contradict each other.
        """
        shapes = infer_shapes(model.graph)
        notes = norms_as_convolutions(model.graph, model.rules, shapes)
        notes += transposed_as_convolutions(model.graph, model.rules, shapes)
        notes += hard_functions_as_clips(model.graph, model.rules)
        model.graph.cleanup().toposort()
        return PassReport(self.name, skipped=dict.fromkeys(model.layers(), "computes the same"), notes=tuple(notes))
