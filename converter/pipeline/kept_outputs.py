"""Check passes that promise to keep the outputs of the float graph: normal forms, folding and integer forms."""

import contextlib
from collections.abc import Iterator
from typing import Any

import onnx_graphsurgeon as gs

from converter.evaluation.same_function import Original
from converter.pipeline.prepare import Prepared
from converter.qdq.floats import float_model
from passes.base import Pass, Stage

__all__ = ["KeptOutputs"]


class KeptOutputs:
    """Comparison of the float graph with the model as given, or with itself before a pass.

    Args:
        job: The conversion.
    """

    def __init__(self, job: Prepared) -> None:
        self._job = job
        self._original: Original | None = None
        self._as_given = True  # whether every pass so far has kept the outputs

    @contextlib.contextmanager
    def over(self, step: Pass, graph: gs.Graph) -> Iterator[None]:
        """Require that a pass, which runs in the `with` block, keeps the outputs if it says so.

        A pass that changed no node is not checked, but the first stage is: it reads what the exporter wrote.

        Raises:
            ModelError: An output differs by more than rounding.
        """
        if not step.keeps_outputs:
            yield
            self._original, self._as_given = None, False
            return
        before = _nodes(graph)
        if self._original is None and not self._as_given:
            self._original = self._job.original(graph)
        yield
        if step.stage is Stage.NORMALISE or _nodes(graph) != before:
            self._original = self._job.original() if self._original is None else self._original
            self._original.require(float_model(graph), step.name)


def _nodes(graph: gs.Graph) -> dict[str, tuple[Any, ...]]:
    """Return the operator, the tensors and the shapes of the constants of every node, by its name."""
    return {
        node.name: (
            node.op,
            [(each.name, tuple(each.shape) if isinstance(each, gs.Constant) else None) for each in node.inputs],
            [each.name for each in node.outputs],
        )
        for node in graph.nodes
    }
