"""What was timed to decide which layers' activations stay in float."""

from collections.abc import Mapping
from typing import Any

from converter.latency import THREADS
from converter.report.page.section import Section

__all__ = ["speed"]


def speed(facts: Mapping[str, Any]) -> Section | None:
    """The files that were timed and the choices that were tried; None where nothing was timed."""
    found = facts["speed"]
    if found is None:
        return None
    timed = [
        (name, found[key], found["float_ms"] / found[key])
        for name, key in (("float", "float_ms"), ("every layer on integers", "integer_ms"), ("as written", "chosen_ms"))
    ]
    return Section("speed", "Measured speed", {"timed": timed, "threads": THREADS})
