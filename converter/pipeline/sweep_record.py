"""Record of a sweep: one row for each conversion, with what it measured or why it failed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.display.json_values import fields_as_json
from converter.display.numbers import decibels, faster, lost, percent, ratio, size
from converter.display.overview import Glance, Overview
from converter.metrics.metric_run import MetricFacts

__all__ = ["Quality", "Sweep", "SweepRow"]


@dataclass(frozen=True)
class SweepRow:
    """One conversion of a sweep. Its fields are keys of the JSON and columns of the CSV.

    Attributes:
        model, recipe, target: Names.
        bits: Bits of all weights, if the sweep sets them. None: the recipe's own.
        failure: Why there is no file. Empty if there is one.
        file: Name of the file in the folder of the sweep. Empty if it failed or the files are not kept.
        float_bytes, bytes: Bytes of the float model and of the file.
        float_top1, top1: Share of the evaluation samples whose highest score is their label. None without labels.
        agreement: Share of the evaluation samples whose highest score is that of the float model.
        measure: The metric that was asked for. None without one.
        float_metric, metric: Its values. The first is None if the outputs of the float model are its truth.
        sqnr_db: SQNR of the worst output in dB, on the samples that judge. inf for equal outputs.
        samples: Number of samples that judge.
        judged_on: What they are: "evaluation", or one of `converter.pipeline.trial_run.Judges`.
        float_ms, latency_ms: Median latency of a sample on one thread. None if it was not measured.
        speedup, speedup_low, speedup_high: Speed against float, and its quartiles.
        rules: Rules of the target that the file breaks.
        seconds: Duration of the conversion with its evaluation.
        machine: Processor that measured.
        warnings: Warnings of the conversion.
        sha256: Digest of the file.
        key: Digest of all that the row depends on.
    """

    model: str
    recipe: str
    target: str
    bits: int | None = None
    failure: str = ""
    file: str = ""
    float_bytes: int | None = None
    bytes: int | None = None
    float_top1: float | None = None
    top1: float | None = None
    agreement: float | None = None
    measure: MetricFacts | None = None
    float_metric: float | None = None
    metric: float | None = None
    sqnr_db: float | None = None
    samples: int = 0
    judged_on: str = ""
    float_ms: float | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    rules: tuple[str, ...] = ()
    seconds: float = 0.0
    machine: str = ""
    warnings: tuple[str, ...] = ()
    sha256: str = ""
    key: str = ""

    @property
    def way(self) -> str:
        """The recipe, with the bits that the sweep sets: "int4 at 3 bits"."""
        return self.recipe if self.bits is None else f"{self.recipe} at {self.bits} bits"

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Quartiles of the speed against float."""
        if self.speedup_low is None or self.speedup_high is None:
            return None
        return self.speedup_low, self.speedup_high

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SweepRow":
        """Return the row of these values.

        Raises:
            TypeError, ValueError: They are no row.
        """
        given = dict(values)
        for name in ("rules", "warnings"):
            given[name] = tuple(given.get(name, ()))
        if given.get("measure") is not None:
            given["measure"] = MetricFacts(**given["measure"])
        return cls(**given)


@dataclass(frozen=True)
class Quality:
    """What the files of a sweep are compared by.

    Attributes:
        title: What it is, with its unit.
        sign: 1 if less is better, -1 if more is better.
        of: Value of every row that has one, by the row's key. The SQNR of outputs equal to float's is inf.
    """

    title: str
    sign: int
    of: Mapping[str, float]


@dataclass(frozen=True, repr=False)
class Sweep(Overview):
    """Results of a sweep.

    Attributes:
        rows: The rows, in the order of the plan.
    """

    rows: tuple[SweepRow, ...]

    @property
    def failed(self) -> tuple[SweepRow, ...]:
        """Rows without a file."""
        return tuple(row for row in self.rows if row.failure)

    @property
    def done(self) -> tuple[SweepRow, ...]:
        """Rows with a file."""
        return tuple(row for row in self.rows if not row.failure)

    def groups(self) -> dict[tuple[str, str], list[SweepRow]]:
        """Return the rows with a file by model and target. Files of one group are alternatives."""
        found: dict[tuple[str, str], list[SweepRow]] = {}
        for row in self.done:
            found.setdefault((row.model, row.target), []).append(row)
        return found

    @property
    def quality(self) -> Quality:
        """What files are compared by: the metric, the drop of top-1 accuracy, or the SQNR, which all rows have."""
        if self.done and all(row.metric is not None and row.measure is not None for row in self.done):
            return _of_metric(self.done)
        if self.done and all(row.top1 is not None for row in self.done):
            drops = {row.key: 100 * ((row.float_top1 or 0.0) - (row.top1 or 0.0)) for row in self.done}
            return Quality("drop of top-1 accuracy, points", 1, drops)
        found = {row.key: row.sqnr_db for row in self.done if row.sqnr_db is not None}
        return Quality("SQNR of the worst output, dB", -1, found)

    def front(self) -> frozenset[str]:
        """Return the keys of the rows than which no other file of their group is both smaller and better."""
        quality = self.quality
        found: set[str] = set()
        for rows in self.groups().values():
            best = math.inf
            for row in sorted(rows, key=lambda row: (row.bytes or 0, quality.sign * quality.of.get(row.key, 0.0))):
                value = quality.of.get(row.key)
                if value is not None and quality.sign * value < best:
                    best = quality.sign * value
                    found.add(row.key)
        return frozenset(found)

    def overview(self) -> Glance:
        """Return one line for each row."""
        front = self.front()
        rows = tuple(_cells(row, row.key in front) for row in self.rows)
        columns = ("model", "recipe", "target", "size", "top-1", "SQNR", "speed", "")
        headline = f"Sweep of {len(self.rows)} conversions, {len(self.failed)} failed"
        return Glance(headline, columns, rows, ("best: no other file is both smaller and better",), (3, 4, 5, 6))

    def to_json(self) -> dict[str, Any]:
        """Return `{"quality": ..., "rows": [...]}`. Rows have `best` as well: whether they are on the front."""
        front, quality = self.front(), self.quality
        rows = [fields_as_json(row) | {"best": row.key in front} for row in self.rows]
        return {"quality": {"title": quality.title, "lower_is_better": quality.sign > 0}, "rows": rows}


def _of_metric(rows: Sequence[SweepRow]) -> Quality:
    """Compare by the metric: by its loss against float, or by its value if float has none."""
    facts = rows[0].measure
    assert facts is not None
    values = {row.key: row.metric for row in rows if row.metric is not None}
    unit = f", {facts.unit}" if facts.unit else ""
    if any(row.float_metric is None for row in rows):
        return Quality(f"{facts.name}{unit}", -1 if facts.higher_is_better else 1, values)
    sign = 1 if facts.higher_is_better else -1
    losses = {row.key: sign * ((row.float_metric or 0.0) - values[row.key]) for row in rows}
    return Quality(f"loss of {facts.name}{unit}", 1, losses)


def _cells(row: SweepRow, best: bool) -> tuple[str, ...]:
    if row.failure:
        return (row.model, row.way, row.target, "", "", "", "", f"failed: {row.failure}")
    assert row.bytes is not None
    smaller = "" if not row.float_bytes else f", {ratio(row.float_bytes / row.bytes, 'smaller', 'larger')}"
    speed = faster(row.speedup, row.quartiles)
    accuracy = percent(row.top1)
    if row.top1 is not None and row.float_top1 is not None:
        accuracy = f"{accuracy}, lost {lost(100 * (row.float_top1 - row.top1))}"
    return (
        row.model,
        row.way,
        row.target,
        f"{size(row.bytes)}{smaller}",
        accuracy,
        decibels(row.sqnr_db),
        speed,
        "best" if best else "",
    )
