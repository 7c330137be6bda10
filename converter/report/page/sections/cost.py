"""Section on the time and the memory of each step of the conversion."""

from collections.abc import Mapping
from typing import Any

from converter.display.numbers import seconds, size
from converter.report.page.section import Section, Spec

__all__ = ["cost"]


def cost(facts: Mapping[str, Any]) -> Section | None:
    """Build two bars for every step: time and peak memory. None if there are no steps."""
    steps = facts["steps"]
    if not steps:
        return None
    rows = [
        {
            "step": f"{number}. {step['name']}",
            **step,
            "time": seconds(step["seconds"]),
            "memory": size(step["peak_bytes"]),
        }
        for number, step in enumerate(steps, 1)
    ]
    for row in rows:
        row["megabytes"] = row["peak_bytes"] / 1e6
    rest = max(0.0, facts["seconds"] - sum(step["seconds"] for step in steps))
    charts = {
        "cost-time": _chart(rows, "seconds", "time", "Time"),
        "cost-memory": _chart(rows, "megabytes", "memory", "Peak memory"),
    }
    peak = max(step["peak_bytes"] for step in steps)
    return Section("cost", "Time and memory", {"rows": rows, "rest": rest, "peak": peak}, charts)


def _chart(rows: list[dict[str, Any]], field: str, label: str, title: str) -> Spec:
    names = [row["step"] for row in rows]
    scale = {"domain": [0, 1.45 * max(row[field] for row in rows)]}  # room for the number at the bar's end
    return {
        "title": {"text": title, "anchor": "start", "frame": "group"},
        "description": f"{title} of every step of the conversion. The numbers are in the table below.",
        "data": {"values": rows},
        "height": 22 * len(rows),
        "encoding": {
            "y": {"field": "step", "type": "nominal", "sort": names, "title": None},
            "x": {"field": field, "type": "quantitative", "axis": None, "scale": scale},
            "tooltip": [{"field": "step"}, {"field": "time"}, {"field": "memory", "title": "peak memory"}],
        },
        "layer": [
            {"mark": {"type": "bar", "height": 13, "cornerRadiusEnd": 2, "style": "covered"}},
            {
                "mark": {"type": "text", "align": "left", "dx": 6, "style": "note"},
                "encoding": {"text": {"field": label}},
            },
        ],
    }
