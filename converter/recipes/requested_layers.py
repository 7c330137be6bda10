"""Layers that a call names, and errors that name the parameter of the call."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from passes.base import LayerPass, Pass, Stage
from passes.errors import UnknownLayerError, UsageError, argument
from passes.graph.exclude import Exclude
from passes.ir.model import Model
from passes.ir.onnx_graph import choices_with_layers
from passes.ir.selectors import select

__all__ = ["RequestedLayers"]


@dataclass(frozen=True)
class RequestedLayers:
    """Layers that a call names.

    Attributes:
        exclude: Selectors of layers that stay in float.
        bits: Weight bits by selector.
        keeps: Whether the recipe keeps codes. What it cannot keep may be every layer.
        solver: The layer pass of the recipe. It knows which LSTM, GRU and RNN get codes.
    """

    exclude: Sequence[str]
    bits: Mapping[str, int]
    keeps: bool = False
    solver: LayerPass | None = None

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Change errors on a layer name in the `with` block into errors that name the parameter of the call.

        Raises:
            UsageError: A layer does not exist. The message names the parameter instead of the field of a pass.
        """
        try:
            yield
        except UnknownLayerError as error:
            if error.layer in self.bits:
                raise UsageError(f"{argument(bits={error.layer: self.bits[error.layer]})}: {error.refusal}") from error
            if error.layer in self.exclude:
                raise UsageError(f"{argument(exclude=[error.layer])}: {error.refusal}") from error
            raise

    @contextlib.contextmanager
    def before(self, step: Pass, model: Model) -> Iterator[None]:
        """Do the same for one pass. The layers in ``bits`` are checked before the first pass that uses images."""
        with self.refused():
            if self.bits and (step.needs_data or step.stage > Stage.FLOAT):
                known = [*model.layers(), *model.recurrent_layers()]
                select(self.bits, model.graph, known, "layer_bits", model.selected)
            yield
        if self.exclude and not self.keeps and step.name == Exclude.name:
            self._require_some(model)

    def _require_some(self, model: Model) -> None:
        """Refuse a call that excludes every layer, for its file would be the float model."""
        layers = [*model.layers(), *self._recurrent(model)]
        branches = {str(node.name) for node in choices_with_layers(model.graph)} - model.float_branches
        if layers and not branches and all(name in model.float_reasons for name in layers):
            raise UsageError(
                f"{argument(exclude=list(self.exclude))} leaves none of the {len(layers)} layers to quantize; "
                "exclude fewer"
            )

    def _recurrent(self, model: Model) -> Iterable[str]:
        """Return the LSTM, GRU and RNN that get codes, with those of them that the call excludes."""
        if self.solver is None or not model.rules.weight_only:
            return ()
        if self.solver.takes_recurrent:
            return model.recurrent_layers()
        with contextlib.suppress(UnknownLayerError):  # the layer pass refuses it
            return self.solver.bits_of_recurrent(model)
        return ()
