"""Record of how a file reached a SQNR."""

from dataclasses import dataclass
from typing import Any

from converter.display.json_values import fields_as_json
from converter.display.numbers import decibels

__all__ = ["Mending"]

_SHOWN = 8  # most names in a line


@dataclass(frozen=True)
class Mending:
    """Record of how a file reached its SQNR.

    Attributes:
        aim_db: SQNR that every output had to reach.
        before_db: SQNR of the worst output of the recipe's own file.
        after_db: The same of the file that is kept.
        activations: Nodes that run in float so that their inputs and outputs are not rounded.
        wide: Nodes whose inputs and outputs got 16 bits, on a target that has integer kernels for them.
        layers: Layers whose weights stay in float.
        bits: Layers whose weights got 8 bits.
        files: Number of files that were made.
    """

    aim_db: float
    before_db: float
    after_db: float
    activations: tuple[str, ...]
    wide: tuple[str, ...]
    layers: tuple[str, ...]
    bits: tuple[str, ...]
    files: int

    def describe(self) -> str:
        """Return one line."""
        parts = [
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}" + (", ..." if len(names) > _SHOWN else "")
            for names, what in (
                (self.activations, "nodes with float activations"),
                (self.wide, "nodes with activations of 16 bits"),
                (self.layers, "layers in float"),
                (self.bits, "layers with 8 bits"),
            )
            if names
        ]
        changes = "; ".join(parts) or "nothing had to change"
        files = f"{self.files} file{'s' * (self.files != 1)}"
        return f"from {decibels(self.before_db)} to {decibels(self.after_db)} in {files}; {changes}"

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return fields_as_json(self)
