"""Section on activations: the range of each grid, the range that calibration saw, and the share that is clipped."""

from collections.abc import Mapping
from typing import Any

from converter.display.numbers import share
from converter.report.page.section import MOST_ROWS, SHORT_NAME, Section, Spec, height_of

__all__ = ["activations"]


def activations(facts: Mapping[str, Any]) -> Section | None:
    """Build a bar for every tensor, in the graph's order. None if no activation is quantized.

    Of many tensors, those that are clipped most have a bar. Each bar has a scale of its own, so that the values of a
    sigmoid are as visible as those of a logit.
    """
    rows = facts["activations"]
    if not rows:
        return None
    most = max(rows, key=lambda row: row["clipped"])
    clipped = sorted(range(len(rows)), key=lambda index: -rows[index]["clipped"])
    drawn = [rows[index] for index in sorted(clipped[:MOST_ROWS])]
    values = {"rows": rows, "most": most, "drawn": len(drawn)}
    return Section("activations", "Activations", values, {"activations-chart": _chart(drawn)})


def _chart(rows: list[Mapping[str, Any]]) -> Spec:
    ends = ("low", "high", "seen_low", "seen_high")
    values = []
    for index, row in enumerate(rows):
        largest = max(abs(row[end]) for end in ends) or 1.0
        relative = {f"{end}_share": row[end] / largest for end in ends}
        values.append({**row, **relative, "lost": share(row["clipped"]), "place": index})
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
    axis = {"orient": "top", "title": "value, as a share of the tensor's largest", "format": "%"}
    return {
        "description": "Range of every activation's grid and the range that calibration saw. See the table below.",
        "data": {"values": values},
        "height": height_of(len(rows)),
        "encoding": {"y": y, "tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "bar", "height": 9, "cornerRadius": 2, "style": "covered"},
                "encoding": {
                    "x": {"field": "low_share", "type": "quantitative", "axis": axis},
                    "x2": {"field": "high_share"},
                },
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "style": "line"},
                "encoding": {
                    "x": {"field": "seen_low_share", "type": "quantitative"},
                    "x2": {"field": "seen_high_share"},
                },
            },
            *[
                {
                    "mark": {"type": "tick", "thickness": 1.5, "height": 9, "style": "line"},
                    "encoding": {"x": {"field": end, "type": "quantitative"}},
                }
                for end in ("seen_low_share", "seen_high_share")
            ],
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "style": "note"},
                "encoding": {"x": {"value": "width"}, "text": {"field": "lost"}},
            },
        ],
    }
