"""Record of a search within a budget: the files that it tried, with their sizes and accuracy drops."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from converter.display.json_values import finite
from converter.display.numbers import decibels, lost, milliseconds, size
from converter.display.overview import Glance, Overview

__all__ = ["BudgetAttempt", "LayerEffect", "Search"]


@dataclass(frozen=True)
class BudgetAttempt:
    """One file of the search, judged on held-out samples. Its fields are the keys of the JSON report.

    Attributes:
        name: Name of the attempt: "int8", "int8-float", "int8-gptq", "int8-exact", "int4", "int3", "mixed",
            "mixed-learned", or the recipe's name.
        layer_bits: Bits of every layer's grid.
        mean_bits: Mean bits per weight in the file, over all weights of quantized layers. Multiples of block scales are
            included.
        bytes: Size of the file.
        drop: Accuracy drop against float in points. The budget limits this number. It is the mean of ``counted_drop``
            and ``expected_drop``, weighted by their certainty. None if the output is not a classifier's.
        counted_drop, drop_error: Drop counted on the held-out samples, and its standard error.
        expected_drop: Drop estimated with errors of other images and probabilities of labels as well, see
            `passes.numerics.expected_drop`.
        sqnr_db: SQNR of the first output.
        predicted_db: SQNR that the additive noise model predicted. None if it made no prediction.
        latency_ms, speedup: Latency and speedup at batch 1 on one thread, timed together with the float model. None if
            the target is another machine.
        seconds: Duration of the attempt, with the judging.
        broken: Limits of the budget that the file exceeds, in words. Empty if it is within the budget.
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
        """Whether the file is within the budget."""
        return not self.broken


@dataclass(frozen=True)
class LayerEffect:
    """Effect of quantizing one layer alone. SQNR is in dB, by the bits of the weights.

    Attributes:
        name: Name of the layer.
        weights: Number of its weights.
        own_db: SQNR of the layer's output.
        output_db: SQNR of the network's output, for the bits that were tried.
        importance: Noise at the network's output per unit of relative noise at the layer's output.
    """

    name: str
    weights: int
    own_db: Mapping[int, float]
    output_db: Mapping[int, float]
    importance: float


@dataclass(frozen=True, repr=False)
class Search(Overview):
    """Record of a search for a file within a budget.

    Attributes:
        budget: The budget in words.
        limits: The limits by the names of `Budget`'s fields. None: no limit.
        drop_of: Quantity whose drop is limited: "top-1 accuracy" or "agreement with float". Empty for other outputs.
        held_out: Number of images that judged the files.
        attempts: Attempts, in order.
        kept: Index of the attempt whose file is the result. None if no file is within the budget.
        effects: Effect of every layer. Empty if the search ended before it needed them.
    """

    budget: str
    limits: Mapping[str, float | None]
    drop_of: str
    held_out: int
    attempts: tuple[BudgetAttempt, ...]
    kept: int | None
    effects: tuple[LayerEffect, ...] = ()

    def overview(self) -> Glance:
        """Return one row per attempt."""
        rows = tuple(
            (
                attempt.name,
                f"{attempt.mean_bits:.2f}",
                size(attempt.bytes),
                lost(attempt.drop),
                decibels(attempt.sqnr_db),
                milliseconds(attempt.latency_ms),
                "kept" if index == self.kept else attempt.broken or "holds",
            )
            for index, attempt in enumerate(self.attempts)
        )
        outcome = "no file holds" if self.kept is None else f"{self.attempts[self.kept].name} kept"
        headline = f"Search within {self.budget}: {outcome}, {len(self.attempts)} tried"
        notes = (f"judged on {self.held_out:,} held-out samples",)
        return Glance(
            headline, ("attempt", "bits", "file", "drop", "SQNR", "latency", "budget"), rows, notes, range(1, 6)
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values. Attempts also have `holds`. Bits that are keys become strings."""
        values = asdict(self)
        for attempt, row in zip(self.attempts, values["attempts"], strict=True):
            row["holds"] = attempt.holds
        for row in values["effects"]:
            for key in ("own_db", "output_db"):
                row[key] = {str(bits): db for bits, db in row[key].items()}
        content: dict[str, Any] = finite(values)
        return content
