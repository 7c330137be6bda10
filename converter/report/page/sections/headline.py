"""Section with accuracy, size and latency before and after the conversion."""

from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import Any

from converter.display import numbers, words
from converter.pipeline.trial_run import Fidelity
from converter.report.page.section import Section

__all__ = ["headline"]


def headline(facts: Mapping[str, Any]) -> Section:
    """Build the first table of the page."""
    distance = None if facts["fidelity"] is None else Fidelity.from_json(facts["fidelity"]).describe()
    values = {"rows": _rows(facts), "precision": _precision(facts["layers"]), "distance": distance}
    return Section("headline", "Before and after", values)


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table: metric, before, after, change."""
    rows = []
    size, metrics = facts["bytes"], facts["metrics"]
    first, last = (metrics["models"][0], metrics["models"][-1]) if metrics else ({}, {})
    if metrics and first["top1"] is not None:
        change = numbers.points(last["top1"] - first["top1"])
        rows.append((words.TOP1, _accuracy(first), _accuracy(last), change))
    if metrics and last["agreement"] is not None:
        rows.append((words.AGREEMENT, "", numbers.percent(last["agreement"]), ""))
    if metrics:
        close = "equal" if last["sqnr_db"] is None else numbers.decibels(last["sqnr_db"])
        rows.append((words.SQNR, "", close, ""))
    ratio = numbers.ratio(size["before"] / size["after"], "smaller", "larger")
    rows.append((words.FILE_SIZE, numbers.size(size["before"]), numbers.size(size["after"]), ratio))
    if metrics and last["speedup"] is not None:
        speed = numbers.faster(last["speedup"], metrics["latency"]["speedup_quartiles"][-1])
        before, after = (numbers.milliseconds(model["latency_ms"]) for model in (first, last))
        rows.append((words.LATENCY, before, after, speed))
    elif facts["latency"]:
        first_ms, last_ms = facts["latency"]["ms"]
        speed = numbers.faster(first_ms / last_ms, facts["latency"]["quartiles"][-1])
        rows.append((words.LATENCY, numbers.milliseconds(first_ms), numbers.milliseconds(last_ms), speed))
    return rows


def _accuracy(model: Mapping[str, Any]) -> str:
    error = sqrt(model["top1"] * (1 - model["top1"]) / model["images"])
    return f"{100 * model['top1']:.2f} ± {100 * error:.2f} %"


def _precision(layers: list[Mapping[str, Any]]) -> str:
    """Count the layers by bits: `20 layers at 4 bits, 2 in float`."""
    counts = Counter(layer["bits"] for layer in layers)
    parts: list[str] = []
    for bits, number in sorted(counts.items()):
        noun = f"{number} layer{'s' if number > 1 else ''}" if not parts else str(number)
        parts.append(f"{noun} in float" if bits == 32 else f"{noun} at {bits} bits")
    return ", ".join(parts)
