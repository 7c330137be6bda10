"""Section on the latencies that decided which layers' activations stay in float."""

from collections.abc import Mapping
from typing import Any

from converter.display.numbers import milliseconds, times
from converter.report.page.section import Section
from converter.report.table import SPREAD
from converter.runtime.latency import THREADS

__all__ = ["speed"]


def speed(facts: Mapping[str, Any]) -> Section | None:
    """Build the table of timed files and of the choices that were tried. None if nothing was timed."""
    measured = facts["speed"]
    if measured is None:
        return None

    def timed(which: str) -> tuple[str, str]:
        speedup = measured["float_ms"] / measured[f"{which}_ms"]
        return milliseconds(measured[f"{which}_ms"]), times(speedup, measured[f"{which}_quartiles"])

    rows = [("float", milliseconds(measured["float_ms"]), times(1.0)), ("every layer on integers", *timed("integer"))]
    rows += [("as written", *timed("chosen"))] if measured["layers"] else [("as written", "the same file", "")]
    gain = times(measured["gain"], measured["gain_quartiles"])
    return Section("speed", "Measured speed", {"timed": rows, "gain": gain, "spread": SPREAD, "threads": THREADS})
