"""Replace operators without an integer kernel with equivalent ones that have one, and find what is faster in float.

Every operator without an integer kernel would run in float: its inputs are dequantized, and its output is quantized
again. Layers whose integer kernel is slower than that get float activations.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from passes.activations.placement import place
from passes.base import GraphPass
from passes.graph.integer_forms.average_pool import averages_as_convolutions
from passes.graph.integer_forms.batchnorm import norms_as_convolutions
from passes.graph.integer_forms.channel_routes import route_channels
from passes.graph.integer_forms.conv_transpose import transposed_as_convolutions
from passes.graph.integer_forms.filled_blocks import fill_depthwise_blocks
from passes.graph.integer_forms.hard_swish import HARD_FUNCTIONS, hard_functions_as_clips, has_integer_form
from passes.graph.integer_forms.slow_layers import slow_layers
from passes.graph.normalise.shapes import Shapes, infer_shapes
from passes.ir.logarithms import layers_before_logarithms
from passes.ir.model import Model
from passes.ir.rules import Rules
from passes.report import Change, PassReport
from passes.statistics import Stats

__all__ = ["IntegerForms"]

_BEFORE_LOGARITHM = "float activations, because a logarithm of its output needs the precision of small values"
_SLOW = "float activations, which are faster for this layer"


@dataclass(frozen=True)
class IntegerForms(GraphPass):
    """Integer forms of BatchNormalization that was not folded, AveragePool, HardSwish, HardSigmoid and ConvTranspose.

    Convolutions that the target runs faster in float get float activations, and so do layers before a logarithm.
    """

    name: ClassVar[str] = "integer_forms"
    keeps_outputs: ClassVar[bool] = True

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rewrite the graph, and mark layers. The outputs of all layers stay the same.

        Raises:
            ModelError: The shapes of the graph contradict each other.
        """
        shapes = infer_shapes(model.graph)
        notes = route_channels(model.graph, model.rules, shapes)
        shapes = infer_shapes(model.graph) if notes else shapes
        notes += norms_as_convolutions(model.graph, model.rules, shapes)
        notes += transposed_as_convolutions(model.graph, model.rules, shapes)
        model.graph.cleanup().toposort()
        shapes = infer_shapes(model.graph) if notes else shapes
        rules = _with_hard_functions(model.rules)
        layers = frozenset(model.layers()) - {*model.float_reasons, *model.float_activations}
        precise = layers_before_logarithms(model.graph, layers)
        layers = layers.difference(precise)
        filled = _filled(model, rules, shapes, layers)
        shapes = infer_shapes(model.graph) if filled else shapes
        notes += filled
        slow = slow_layers(model.graph, rules, shapes, layers)
        reasons = dict.fromkeys(precise, _BEFORE_LOGARITHM) | dict.fromkeys(slow, _SLOW)
        model.float_activations |= reasons
        integer = place(model.graph, rules, layers.difference(slow)).integer
        notes += averages_as_convolutions(model.graph, model.rules, shapes, integer)
        notes += hard_functions_as_clips(model.graph, model.rules, integer)
        model.graph.cleanup().toposort()
        changed = {name: Change(reason) for name, reason in reasons.items()}
        skipped = {name: "computes the same" for name in model.layers() if name not in changed}
        return PassReport(self.name, changed, skipped, notes=tuple(notes))


def _filled(model: Model, rules: Rules, shapes: Shapes, layers: frozenset[str]) -> list[str]:
    """Fill depthwise layers, but not those that run in float even so. New channels would only cost time there."""
    trial = model.graph.copy()
    if not fill_depthwise_blocks(trial, model.rules, shapes, layers):
        return []
    slow = slow_layers(trial, rules, infer_shapes(trial), layers)
    return fill_depthwise_blocks(model.graph, model.rules, shapes, layers.difference(slow))


def _with_hard_functions(rules: Rules) -> Rules:
    """Return the rules as if there were integer kernels for what has an integer form of several nodes."""
    return dataclasses.replace(rules, compute=rules.compute | HARD_FUNCTIONS) if has_integer_form(rules) else rules
