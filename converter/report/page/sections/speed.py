"""What was timed to decide which layers' activations stay in float."""

from collections.abc import Mapping
from typing import Any

from converter.display.numbers import milliseconds, times
from converter.report.page.section import Section
from converter.report.table import SPREAD
from converter.runtime.latency import THREADS

__all__ = ["speed"]


def speed(facts: Mapping[str, Any]) -> Section | None:
    """The files that were timed and the choices that were tried; None where nothing was timed."""
    found = facts["speed"]
    if found is None:
        return None

    def timed(which: str) -> tuple[str, str]:
        over = found["float_ms"] / found[f"{which}_ms"]
        return milliseconds(found[f"{which}_ms"]), times(over, found[f"{which}_quartiles"])

    rows = [("float", milliseconds(found["float_ms"]), times(1.0)), ("every layer on integers", *timed("integer"))]
    rows += [("as written", *timed("chosen"))] if found["layers"] else [("as written", "the same file", "")]
    gain = times(found["gain"], found["gain_quartiles"])
    return Section("speed", "Measured speed", {"timed": rows, "gain": gain, "spread": SPREAD, "threads": THREADS})
