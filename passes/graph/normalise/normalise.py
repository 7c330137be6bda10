"""Rewrite networks of all exporters to the form that the other passes expect."""

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from passes.base import GraphPass, Stage
from passes.graph.normalise.axes import name_no_axes
from passes.graph.normalise.constants import fold_constants, lower_constant_nodes
from passes.graph.normalise.control_flow import inline_constant_branches
from passes.graph.normalise.duplicates import merge_duplicates
from passes.graph.normalise.flatten import flatten_reshapes
from passes.graph.normalise.gemm import absorb_alpha_beta, matmul_to_gemm
from passes.graph.normalise.names import name_nodes
from passes.graph.normalise.no_ops import remove_no_ops
from passes.graph.normalise.pads import absorb_pads
from passes.graph.normalise.pooling import count_no_pads, pool_means
from passes.graph.normalise.refusals import refuse_unsupported
from passes.graph.normalise.scatters import scatters_as_concats
from passes.graph.normalise.shapes import infer_shapes
from passes.graph.normalise.sharing import share_tied_biases, unshare_constants
from passes.ir.expectations import expected_values
from passes.ir.model import Model
from passes.report import PassReport
from passes.statistics import Stats

__all__ = ["Normalise", "normalise"]

_EXPECTED_VALUE = "it is the expected value of a softmax, as a detector decodes its boxes"


def normalise(graph: gs.Graph, *, rewrite: bool = True, copies: Set[str] = frozenset()) -> list[str]:
    """Rewrite `graph` in place. Its outputs stay the same.

    The steps, in order:

    - Constant nodes, and nodes that read only constants, become initializers.
    - An If with a constant condition becomes its branch.
    - Identity and inference-mode Dropout are removed.
    - Every node gets a unique name.
    - Nodes that compute the same become one.
    - Every layer gets its own weight and bias, except layers that read one weight as the same matrix.
    - Gemm gets alpha = beta = 1.
    - Pad and Resize name no axes.
    - Pad with zeros becomes the padding of the convolution that reads it.
    - ScatterND of whole rows in order becomes Concat, or what it writes.
    - Means over all spatial axes become GlobalAveragePool, and reshapes to [batch, rest] become Flatten.
    - MatMul (+ Add) on a matrix becomes Gemm.

    Args:
        graph: The graph.
        rewrite: Whether to merge nodes, and to do the last four steps.
        copies: Names of results of Identities that stay.

    Returns:
        A line for every kind of change.

    Raises:
        ModelError: The graph has a training-mode BatchNormalization or Dropout, a layer in another float
            type, weights with NaN or Inf, or shapes that contradict each other.
    """
    graph.toposort()
    notes = lower_constant_nodes(graph) + fold_constants(graph)
    while inlined := inline_constant_branches(graph):
        notes += inlined + lower_constant_nodes(graph) + fold_constants(graph)
    graph.cleanup().toposort()
    refuse_unsupported(graph)
    notes += remove_no_ops(graph, copies)
    notes += name_nodes(graph)
    notes += merge_duplicates(graph) if rewrite else []
    notes += unshare_constants(graph)
    notes += absorb_alpha_beta(graph)
    notes += name_no_axes(graph)
    if rewrite:
        notes += absorb_pads(graph)
        count_no_pads(graph)
        shapes = infer_shapes(graph)
        notes += scatters_as_concats(graph, shapes)
        notes += pool_means(graph, shapes)
        notes += flatten_reshapes(graph, shapes)
        notes += matmul_to_gemm(graph, shapes)
    graph.cleanup().toposort()
    share_tied_biases(graph)
    return notes


@dataclass(frozen=True)
class Normalise(GraphPass):
    """`normalise` as a pass.

    Attributes:
        rewrite: Whether Pad, means, reshapes and MatMul are replaced with operators that later passes handle better,
            and layers that are the expected value of a softmax stay in float.
    """

    name: ClassVar[str] = "normalise"
    stage: ClassVar[Stage] = Stage.NORMALISE
    settles_layers: ClassVar[bool] = True
    keeps_outputs: ClassVar[bool] = True

    rewrite: bool = True

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Rewrite the graph. The outputs of all layers stay the same. Layers that only decode stay in float.

        Raises:
            ModelError: See `normalise`.
        """
        copies = frozenset() if self.rewrite else model.existing_qparams.copies
        notes = normalise(model.graph, rewrite=self.rewrite, copies=copies)
        if model.existing_qparams:
            notes = [
                f"the source was quantized already: {model.existing_qparams} were dequantized for the reference",
                *notes,
            ]
        layers = model.layers()
        if self.rewrite:
            model.float_reasons |= dict.fromkeys(expected_values(model.graph, layers), _EXPECTED_VALUE)
        skipped = {name: model.float_reasons.get(name, "computes the same") for name in layers}
        return PassReport(self.name, skipped=skipped, notes=tuple(notes))
