"""Section on activations: the range of each grid, the range that calibration saw, and the share that is clipped."""

from collections.abc import Mapping
from typing import Any

from converter.display.numbers import share
from converter.report.page.section import SHORT_NAME, Section, Spec, height_of

__all__ = ["activations"]


def activations(facts: Mapping[str, Any]) -> Section | None:
    """Build a bar for every tensor, in the graph's order. None if no activation is quantized."""
    rows = facts["activations"]
    if not rows:
        return None
    most = max(rows, key=lambda row: row["clipped"])
    return Section("activations", "Activations", {"rows": rows, "most": most}, {"activations-chart": _chart(rows)})


def _chart(rows: list[Mapping[str, Any]]) -> Spec:
    values = [{**row, "lost": share(row["clipped"]), "place": index} for index, row in enumerate(rows)]
    names = [row["tensor"] for row in rows]
    tooltip = [
        {"field": "tensor", "title": "tensor"},
        {"field": "low", "title": "grid from", "format": ".4g"},
        {"field": "high", "title": "grid to", "format": ".4g"},
        {"field": "seen_low", "title": "seen from", "format": ".4g"},
        {"field": "seen_high", "title": "seen to", "format": ".4g"},
        {"field": "lost", "title": "clipped"},
    ]
    y = {"field": "tensor", "type": "nominal", "sort": names, "title": None, "axis": {"labelExpr": SHORT_NAME}}
    axis = {"orient": "top", "title": "value of the activation"}
    return {
        "description": "Range of every activation's grid and the range that calibration saw. See the table below.",
        "data": {"values": values},
        "height": height_of(len(rows)),
        "encoding": {"y": y, "tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "bar", "height": 9, "cornerRadius": 2, "style": "covered"},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative", "axis": axis},
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "style": "line"},
                "encoding": {"x": {"field": "seen_low", "type": "quantitative"}, "x2": {"field": "seen_high"}},
            },
            *[
                {
                    "mark": {"type": "tick", "thickness": 1.5, "height": 9, "style": "line"},
                    "encoding": {"x": {"field": end, "type": "quantitative"}},
                }
                for end in ("seen_low", "seen_high")
            ],
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "style": "note"},
                "encoding": {"x": {"value": "width"}, "text": {"field": "lost"}},
            },
        ],
    }
