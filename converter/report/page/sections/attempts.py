"""The files that a search for a budget made: what each takes and costs, and which one was kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converter.report.page.label_places import place_labels
from converter.report.page.numbers import decibels, lost, milliseconds, size, times
from converter.report.page.section import Section, Spec

__all__ = ["attempts"]

HOLDS, BREAKS = "keeps the budget", "breaks it"
_HEIGHT = 320  # pixels of the plot
_MARGIN = 0.12  # of an axis, beyond its outermost points
_NEAR_LIMIT = 1.0  # spreads of the points beyond them that a limit is drawn in


@dataclass(frozen=True)
class Axis:
    """One of the two numbers that attempts are plotted by.

    Attributes:
        field: of an attempt.
        title: of the axis.
        limit: of the budget, None where there is none.
        sign: 1 where less is better, -1 where more is.
    """

    field: str
    title: str
    limit: float | None
    sign: int

    def drawn_limit(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The limit, unless it is so far off that it would press the points together."""
        values = [row[self.field] for row in rows]
        reach = _NEAR_LIMIT * ((max(values) - min(values)) or abs(values[0]))
        near = self.limit is not None and min(values) - reach <= self.limit <= max(values) + reach
        return self.limit if near else None

    def domain(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """Ends of the axis: every point and the limit, with room around."""
        values = [row[self.field] for row in rows]
        limit = self.drawn_limit(rows)
        values += [] if limit is None else [limit]
        room = _MARGIN * ((max(values) - min(values)) or abs(values[0]) or 1.0)
        return min(values) - room, max(values) + room


def attempts(facts: Mapping[str, Any]) -> Section | None:
    """A plot of bytes against what was lost, the latencies, and a table."""
    search = facts["search"]
    if search is None:
        return None
    rows = [_row(place, attempt, search["kept"]) for place, attempt in enumerate(search["attempts"])]
    kept = None if search["kept"] is None else rows[search["kept"]]
    limits = search["limits"]
    bytes_axis = Axis("bytes", "bytes of the file", limits["max_bytes"], 1)
    if limits["max_drop"] is not None and all(row["drop"] is not None for row in rows):
        lost_axis = Axis("drop", f"drop of {search['drop_of']}, points", limits["max_drop"], 1)
    else:
        lost_axis = Axis("sqnr_db", "signal to noise of the output, dB", None, -1)
    charts: dict[str, Spec] = {}
    drawn = [row for row in rows if row[lost_axis.field] is not None]
    if drawn:
        charts["attempts-chart"] = _plot(drawn, bytes_axis, lost_axis)
    timed = [row for row in rows if row["latency_ms"] is not None]
    if timed:
        charts["attempts-latency"] = _latencies(timed, limits["max_latency"])
    limited = [axis for axis in (bytes_axis, lost_axis) if drawn and axis.drawn_limit(drawn) is not None]
    values = {
        "rows": rows,
        "kept": kept,
        "smallest": kept is not None and kept["bytes"] == min(row["bytes"] for row in rows if row["holds"]),
        "holding": sum(row["holds"] for row in rows),
        "limits_drawn": len(limited),
        "charts": charts,
    }
    return Section("attempts", "Search for the budget", values, charts)


def _row(place: int, attempt: Mapping[str, Any], kept: int | None) -> dict[str, Any]:
    label = f"{place + 1} {attempt['name']}"
    counts = Counter(attempt["layer_bits"].values())
    return {
        **{key: value for key, value in attempt.items() if key != "layer_bits"},
        "place": place,
        "label": label,
        "text": f"{label}, kept" if place == kept else label,
        "kept": place == kept,
        "verdict": HOLDS if attempt["holds"] else BREAKS,
        "why": "kept" if place == kept else "holds" if attempt["holds"] else attempt["broken"],
        "layers": ", ".join(f"{count} at {bits}" for bits, count in sorted(counts.items())),
        "size": size(attempt["bytes"]),
        "lost": lost(attempt["drop"]),
        "sqnr": decibels(attempt["sqnr_db"]),
        "latency": milliseconds(attempt["latency_ms"]),
        "speed": "" if attempt["speedup"] is None else times(attempt["speedup"], "faster", "slower"),
    }


def _front(rows: Sequence[Mapping[str, Any]], x: Axis, y: Axis) -> set[int]:
    """Places of the attempts that no other is both smaller and better than."""
    found, best = set(), float("inf")
    for row in sorted(rows, key=lambda row: (x.sign * row[x.field], y.sign * row[y.field])):
        if y.sign * row[y.field] < best:
            best = y.sign * row[y.field]
            found.add(row["place"])
    return found


def _plot(rows: list[dict[str, Any]], x: Axis, y: Axis) -> Spec:
    (left, right), (low, high) = x.domain(rows), y.domain(rows)
    ordered = sorted(rows, key=lambda row: not row["kept"])  # the one that matters takes its place first
    points = [((row[x.field] - left) / (right - left), (high - row[y.field]) / (high - low)) for row in ordered]
    places = place_labels(points, [row["text"] for row in ordered], _HEIGHT)
    front = _front(rows, x, y)
    values = [
        {**row, "front": row["place"] in front, "right": place.right, "down": place.down}
        | {"align": place.align, "far": place.far}
        for row, place in zip(ordered, places, strict=True)
    ]
    tooltip = [
        {"field": "label", "title": "attempt"},
        {"field": "why", "title": "budget"},
        {"field": "size", "title": "file"},
        {"field": "lost", "title": "drop"},
        {"field": "sqnr", "title": "SQNR"},
        {"field": "latency", "title": "latency"},
        {"field": "layers", "title": "layers at bits"},
    ]
    across = {"field": x.field, "type": "quantitative", "title": x.title, "axis": {"format": "~s"}}
    across["scale"] = {"domain": [left, right], "nice": False, "zero": False}
    up = {"field": y.field, "type": "quantitative", "title": y.title}
    up["scale"] = {"domain": [low, high], "nice": False, "zero": False}
    verdict = {"field": "verdict", "type": "nominal", "legend": {"title": None, "orient": "top"}}
    layers: list[Spec] = [_limit(axis, rows, channel) for axis, channel in ((x, "x"), (y, "y"))]
    layers += [
        {
            "transform": [{"filter": "datum.front"}],
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5, "style": "note"},
            "encoding": {"order": {"field": x.field}},
        },
        {
            "transform": [{"filter": "datum.far"}],
            "mark": {
                "type": "rule",
                "style": "note",
                "strokeWidth": 0.75,
                "x2Offset": {"expr": "datum.right"},
                "y2Offset": {"expr": "datum.down"},
            },
            "encoding": {"x2": {"field": x.field}, "y2": {"field": y.field}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
            "encoding": {
                "shape": verdict | {"scale": {"domain": [HOLDS, BREAKS], "range": ["circle", "cross"]}},
                "color": verdict | {"scale": {"domain": [HOLDS, BREAKS]}},
                "tooltip": tooltip,
            },
        },
        {
            "transform": [{"filter": "datum.kept"}],
            "mark": {"type": "point", "shape": "circle", "filled": False, "size": 260, "style": "line"},
        },
        {
            "mark": {
                "type": "text",
                "style": "value",
                "baseline": "middle",
                "dx": {"expr": "datum.right"},
                "dy": {"expr": "datum.down"},
                "align": {"expr": "datum.align"},
            },
            "encoding": {"text": {"field": "text"}},
        },
    ]
    return {
        "description": f"Bytes of every attempt's file against {y.title}. The table below has the numbers.",
        "data": {"values": values},
        "height": _HEIGHT,
        "encoding": {"x": across, "y": up},
        "layer": [layer for layer in layers if layer],
    }


def _limit(axis: Axis, rows: Sequence[Mapping[str, Any]], channel: str) -> Spec:
    """A dashed line; nothing where the axis has no limit near."""
    limit = axis.drawn_limit(rows)
    if limit is None:
        return {}
    other = {"x": "y", "y": "x"}[channel]
    return {
        "data": {"values": [{axis.field: limit}]},
        "mark": {"type": "rule", "strokeDash": [5, 4], "style": "line"},
        "encoding": {other: None},
    }


def _latencies(rows: list[dict[str, Any]], limit: float | None) -> Spec:
    for row in rows:
        row["timed"] = f"{row['latency']}, {row['speed']}" if row["speed"] else row["latency"]
    longest = max(row["latency_ms"] for row in rows)
    shown = limit if limit is not None and limit <= 2 * longest else None
    scale = {"domain": [0, 1.9 * max(longest, shown or 0.0)]}  # room for the words at the bar's end
    bars: list[Spec] = [
        {"mark": {"type": "bar", "height": 13, "cornerRadiusEnd": 2, "style": "covered"}},
        {
            "mark": {"type": "text", "align": "left", "dx": 6, "style": "note"},
            "encoding": {"text": {"field": "timed"}},
        },
    ]
    if shown is not None:
        line = {"type": "rule", "strokeDash": [5, 4], "style": "line"}
        bars.append({"data": {"values": [{"latency_ms": shown}]}, "mark": line, "encoding": {"y": None}})
    return {
        "title": {"text": "Latency of an image", "anchor": "start", "frame": "group"},
        "description": "Latency of every attempt's file. The table below has the numbers.",
        "data": {"values": rows},
        "height": 22 * len(rows),
        "encoding": {
            "y": {"field": "text", "type": "nominal", "sort": [row["text"] for row in rows], "title": None},
            "x": {"field": "latency_ms", "type": "quantitative", "axis": None, "scale": scale},
            "tooltip": [{"field": "label", "title": "attempt"}, {"field": "timed", "title": "latency"}],
        },
        "layer": bars,
    }
