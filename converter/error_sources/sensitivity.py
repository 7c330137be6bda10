"""Sources of error of one model, ranked."""

import math
from dataclasses import dataclass
from typing import Any

from converter.display.json_values import fields_as_json
from converter.display.numbers import decibels, percent
from converter.display.overview import Glance, Overview
from converter.error_sources.measure import ErrorSource

__all__ = ["Sensitivity"]

_SHOWN = 10


@dataclass(frozen=True, repr=False)
class Sensitivity(Overview):
    """What rounding each weight and each activation costs.

    Attributes:
        recipe: Name of the recipe that rounds.
        target: Name of the target.
        samples: Number of samples that were measured.
        sources: Weights and activations, the one that costs most first.
    """

    recipe: str
    target: str
    samples: int
    sources: tuple[ErrorSource, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that were compared."""
        return tuple(self.sources[0].sqnr_db) if self.sources else ()

    def share(self, source: ErrorSource) -> float:
        """Return the share of a source in the error of the output where that share is largest, from 0 to 1."""
        if source.worst_db == -math.inf:  # it alone makes NaN or Inf
            return 1.0
        finite = [each for each in self.sources if each.worst_db > -math.inf]
        totals = {output: sum(each.noise(output) for each in finite) for output in self.outputs}
        return max((source.noise(output) / total for output, total in totals.items() if total > 0), default=0.0)

    def ranked(self) -> tuple[ErrorSource, ...]:
        """Return the sources by their share, the largest first."""
        return tuple(sorted(self.sources, key=lambda source: -self.share(source)))

    def overview(self) -> Glance:
        """Return the sources with the largest shares."""
        rows = tuple(
            (source.name, source.kind, f"{source.bits}", decibels(source.worst_db), percent(self.share(source)))
            for source in self.ranked()[:_SHOWN]
        )
        headline = (
            f"Sensitivity to {self.recipe} for {self.target}: {len(self.sources)} weights and activations, "
            f"{self.samples} samples"
        )
        columns = ("rounded alone", "kind", "bits", "SQNR of the worst output", "share of the error")
        return Glance(headline, columns, rows, numbers=(2, 3, 4))

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value, and the share of every source."""
        sources = [fields_as_json(source) | {"share": self.share(source)} for source in self.ranked()]
        return {"recipe": self.recipe, "target": self.target, "samples": self.samples, "sources": sources}
