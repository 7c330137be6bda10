"""One file that a search for a budget made: what it takes and what it costs. Rows of the reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from converter.display.json_values import finite
from converter.display.numbers import decibels, lost, milliseconds, size
from converter.display.overview import Glance, Overview

__all__ = ["BudgetAttempt", "LayerEffect", "Search"]


@dataclass(frozen=True)
class BudgetAttempt:
    """A file that was made and judged on held-out images; its fields are keys of the JSON report.

    Attributes:
        name: of the rung: "int8", "int8-float", "int8-gptq", "int4", "int3", "mixed", "mixed-learned", or the recipe's.
        layer_bits: of every layer's grid.
        mean_bits: that a weight takes in the file, multiples of block scales included, over all weights of quantized
            layers.
        bytes: of the file.
        drop: points lost against float, what the budget is held against: the mean of the next two, weighted by how sure
            they are; None where the output is no classifier's.
        counted_drop, drop_error: on the held-out images, and its standard error.
        expected_drop: with errors of other images and probabilities of labels as well; see
            `passes.numerics.expected_drop`.
        sqnr_db: of the first output.
        predicted_db: what the additive noise model said it would be; None where it was not asked.
        latency_ms, speedup: batch 1, one thread, timed beside the float model; None for other machines.
        seconds: it took, judging included.
        broken: which part of the budget it breaks, in words; empty where it holds.
    """

    name: str
    layer_bits: Mapping[str, int]
    mean_bits: float
    bytes: int
    drop: float | None
    counted_drop: float | None
    drop_error: float | None
    expected_drop: float | None
    sqnr_db: float
    predicted_db: float | None
    latency_ms: float | None
    speedup: float | None
    seconds: float
    broken: str

    @property
    def holds(self) -> bool:
        """Whether it is within the budget."""
        return not self.broken


@dataclass(frozen=True)
class LayerEffect:
    """What quantizing one layer alone does, in dB of signal to noise; keys are bits of its weights.

    Attributes:
        name: of the layer.
        weights: how many it has.
        own_db: of its own output.
        output_db: of the network's output, where it was tried.
        importance: noise at the network's output for each unit of relative noise at the layer's.
    """

    name: str
    weights: int
    own_db: Mapping[int, float]
    output_db: Mapping[int, float]
    importance: float


@dataclass(frozen=True, repr=False)
class Search(Overview):
    """How a file within a budget was looked for.

    Attributes:
        budget: in words.
        limits: the same in numbers, by the names of `Budget`'s fields; None: no limit.
        drop_of: what a drop is of: "top-1 accuracy" or "agreement with float"; empty for other outputs.
        held_out: images that judged.
        attempts: in order.
        kept: place among them of the file that was kept; None where none holds.
        effects: of each layer; empty where the ladder ended before they were needed.
    """

    budget: str
    limits: Mapping[str, float | None]
    drop_of: str
    held_out: int
    attempts: tuple[BudgetAttempt, ...]
    kept: int | None
    effects: tuple[LayerEffect, ...] = ()

    def overview(self) -> Glance:
        """A row an attempt."""
        rows = tuple(
            (
                attempt.name,
                f"{attempt.mean_bits:.2f}",
                size(attempt.bytes),
                lost(attempt.drop),
                decibels(attempt.sqnr_db),
                milliseconds(attempt.latency_ms),
                "kept" if place == self.kept else attempt.broken or "holds",
            )
            for place, attempt in enumerate(self.attempts)
        )
        found = "no file holds" if self.kept is None else f"{self.attempts[self.kept].name} kept"
        headline = f"Search within {self.budget}: {found}, {len(self.attempts)} tried"
        notes = (f"judged on {self.held_out:,} held-out images",)
        return Glance(
            headline, ("tried", "bits", "file", "drop", "SQNR", "latency", "budget"), rows, notes, range(1, 6)
        )

    def to_json(self) -> dict[str, Any]:
        """Every field, ready for JSON: attempts say whether they hold, and bits that are keys are strings."""
        values = asdict(self)
        for attempt, row in zip(self.attempts, values["attempts"], strict=True):
            row["holds"] = attempt.holds
        for row in values["effects"]:
            for key in ("own_db", "output_db"):
                row[key] = {str(bits): db for bits, db in row[key].items()}
        content: dict[str, Any] = finite(values)
        return content
