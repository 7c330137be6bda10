"""Layers that a call asks for by name, refused in the words of the parameters that named them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from passes.base import Pass, Stage
from passes.errors import UnknownLayerError, UsageError, argument
from passes.ir.layer_names import require_known
from passes.ir.model import Model

__all__ = ["RequestedLayers"]


@dataclass(frozen=True)
class RequestedLayers:
    """What `exclude` and `bits` name."""

    exclude: Sequence[str]
    bits: Mapping[str, int]

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Whatever the `with` block finds wrong with one of the names.

        Raises:
            UsageError: names the parameter, where a pass would name its field.
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
        """The same, and ``bits`` is questioned before the first pass that looks at images, not after the last."""
        with self.refused():
            if self.bits and (step.needs_data or step.stage > Stage.FLOAT):
                require_known(self.bits, model.layers(), "layer_bits")
            yield
