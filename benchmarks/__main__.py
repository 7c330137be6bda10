"""Measurement of every bar of the project.

    make bench                        all of them
    python -m benchmarks cifar time   some of them

The exit code is 0 if every measured bar holds, and 1 if one is missed or a benchmark fails. A benchmark without its
data is skipped.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.accuracy import cifar, imagenet
from benchmarks.bar import Bar, Benchmark
from benchmarks.budgets import budget_cifar, budget_imagenet, budget_road_signs
from benchmarks.calibration_sets import calibration
from benchmarks.conversion_cost import calibration_memory, conversion_time
from benchmarks.cpu_speed import cpu_speed
from benchmarks.deployment import resnet18
from benchmarks.dynamic import dynamic
from benchmarks.embedded_preprocessing import embedded_preprocessing
from benchmarks.float16 import float16
from benchmarks.large_layers import large_model, matmul_nbits
from benchmarks.low_bits import low_bits, low_bits_efficientnet, two_level
from benchmarks.nbits import nbits
from benchmarks.recurrent_weights import recurrent_weights
from benchmarks.shared_data import MissingData
from benchmarks.smoothquant import smoothquant
from benchmarks.training import qat_cifar, qat_road_signs
from benchmarks.wide_activations import wide_activations
from converter import ConvertError
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import available_threads

__all__ = ["BENCHMARKS", "Outcome", "main", "measure", "outcome_table", "verdict"]

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "cifar": cifar,
        "imagenet": imagenet,
        "low-bits": low_bits,
        "low-bits-efficientnet": low_bits_efficientnet,
        "two-level": two_level,
        "calibration": calibration,
        "qat-cifar": qat_cifar,
        "qat-road-signs": qat_road_signs,
        "budget-cifar": budget_cifar,
        "budget-imagenet": budget_imagenet,
        "budget-road-signs": budget_road_signs,
        "smoothquant": smoothquant,
        "resnet18": resnet18,
        "embedded-preprocessing": embedded_preprocessing,
        "speed": cpu_speed,
        "time": conversion_time,
        "memory": calibration_memory,
        "matmulnbits": matmul_nbits,
        "float16": float16,
        "nbits": nbits,
        "wide-activations": wide_activations,
        "large-model": large_model,
        "dynamic": dynamic,
        "recurrent-weights": recurrent_weights,
    }
)


@dataclass(frozen=True)
class Outcome:
    """Result of a benchmark. ``skipped`` and ``error`` say why it did not run, or why it stopped."""

    name: str
    bars: tuple[Bar, ...]
    seconds: float
    skipped: str = ""
    error: str = ""

    @property
    def missed(self) -> int:
        """Number of bars that do not hold, plus 1 for an error."""
        return sum(bar.holds is False for bar in self.bars) + bool(self.error)

    def to_json(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        bars = [bar.to_json() for bar in self.bars]
        return {
            "name": self.name,
            "seconds": round(self.seconds, 1),
            "skipped": self.skipped or None,
            "error": self.error or None,
            "bars": bars,
        }


def measure(name: str, benchmark: Benchmark) -> Outcome:
    """Run one benchmark. Bars measured before an error are kept."""
    started = time.perf_counter()
    bars: list[Bar] = []
    skipped = error = ""
    try:
        with progress_bars() as progress:
            bars.extend(benchmark(progress))
    except MissingData as reason:
        skipped = str(reason)
    except ConvertError as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Outcome(name, tuple(bars), time.perf_counter() - started, skipped, error)


def outcome_table(outcome: Outcome) -> Table:
    """Build the table with one row for each bar."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.title = f"{outcome.name}, {outcome.seconds:.0f} s"
    table.title_justify, table.title_style = "left", "bold"
    for column in (outcome.name, "measured", "bar", "", "how"):
        table.add_column(column, justify="right" if column in {"measured", "bar"} else "left")
    for bar in outcome.bars:
        sign = "at least" if bar.at_least else "at most"
        limit = "-" if bar.limit is None else f"{sign} {bar.limit:g}"
        table.add_row(bar.what, f"{number(bar.measured)} {bar.unit}", limit, verdict(bar), Text(bar.note, style="dim"))
    for word, text, style in (("skipped", outcome.skipped, "yellow"), ("failed", outcome.error, "red")):
        if text:
            table.add_row("", "", "", Text(word, style=style), text)
    return table


def verdict(bar: Bar) -> Text:
    """Say whether the bar holds, or by how much it is missed."""
    if bar.holds is None:
        return Text("no bar", style="dim")
    if bar.holds:
        return Text("holds", style="green")
    return Text(f"misses by {number(bar.missed_by)} {bar.unit}", style="bold red")


def number(value: float) -> str:
    """Format an integer as it is, and any other number with two decimals."""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """Describe the machine and the software that the figures depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": available_threads(),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the given benchmarks and print which bars hold."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure the project's bars.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            near = get_close_matches(name, BENCHMARKS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            parser.error(f"no benchmark is named {name!r}; {hint}there are: {', '.join(BENCHMARKS)}")
    facts = machine()
    outcomes = []
    for name in options.names or BENCHMARKS:
        outcomes.append(measure(name, BENCHMARKS[name]))
        show([outcome_table(outcomes[-1])])
    if options.json is not None:
        content = {"machine": facts, "benchmarks": [outcome.to_json() for outcome in outcomes]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    missed = sum(outcome.missed for outcome in outcomes)
    held = sum(bar.holds is True for outcome in outcomes for bar in outcome.bars)
    skipped = [outcome.name for outcome in outcomes if outcome.skipped]
    print(f"{held} bars hold, {missed} missed" + (f"; skipped: {', '.join(skipped)}" if skipped else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
