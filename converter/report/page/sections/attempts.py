"""The files that a search for a budget made: what each takes and costs, and which one was kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from converter.display.numbers import decibels, lost, milliseconds, ratio, size
from converter.report.page.label_places import Point, place_labels
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

    def channel(self, rows: Sequence[Mapping[str, Any]]) -> Spec:
        """Of a Vega-Lite encoding."""
        scale = {"domain": list(self.domain(rows)), "nice": False, "zero": False}
        return {"field": self.field, "type": "quantitative", "title": self.title, "scale": scale}


def attempts(facts: Mapping[str, Any]) -> Section | None:
    """A plot of bytes against what was lost, the latencies, and a table."""
    search = facts["search"]
    if search is None:
        return None
    rows = [_row(place, attempt, search["kept"]) for place, attempt in enumerate(search["attempts"])]
    _name_points(rows)
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
        "kept": place == kept,
        "verdict": HOLDS if attempt["holds"] else BREAKS,
        "why": "kept" if place == kept else "holds" if attempt["holds"] else attempt["broken"],
        "layers": ", ".join(f"{count} at {bits}" for bits, count in sorted(counts.items())),
        "size": size(attempt["bytes"]),
        "lost": lost(attempt["drop"]),
        "sqnr": decibels(attempt["sqnr_db"]),
        "latency": milliseconds(attempt["latency_ms"]),
        "speed": "" if attempt["speedup"] is None else ratio(attempt["speedup"], "faster", "slower"),
    }


def _name_points(rows: Sequence[dict[str, Any]]) -> None:
    """Short labels: a name only where it is new, as points of one name lie close together."""
    seen: set[str] = set()
    for row in rows:
        label = str(row["place"] + 1) if row["name"] in seen else row["label"]
        row["text"] = f"{label}, kept" if row["kept"] else label
        seen.add(row["name"])


def _front(rows: Sequence[Mapping[str, Any]], x: Axis, y: Axis) -> list[int]:
    """Places of the attempts that no other is both smaller and better than, the smallest first."""
    found, best = [], float("inf")
    for row in sorted(rows, key=lambda row: (x.sign * row[x.field], y.sign * row[y.field])):
        if y.sign * row[y.field] < best:
            best = y.sign * row[y.field]
            found.append(row["place"])
    return found


def _steps(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """The lines of a stepped curve, level first."""
    corners = [((x, y), (to_x, y), (to_x, to_y)) for (x, y), (to_x, to_y) in pairwise(points)]
    return [line for start, corner, end in corners for line in ((start, corner), (corner, end))]


def _plot(rows: list[dict[str, Any]], x: Axis, y: Axis) -> Spec:
    layers: list[Spec] = [_limit(axis, rows, channel) for axis, channel in ((x, "x"), (y, "y"))]
    layers += [
        {
            "transform": [{"filter": "datum.front"}],
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5, "style": "note"},
            "encoding": {"order": {"field": x.field}},
        },
        *_points(),
        *_labels(x, y),
    ]
    return {
        "description": f"Bytes of every attempt's file against {y.title}. The table below has the numbers.",
        "data": {"values": _placed(rows, x, y)},
        "height": _HEIGHT,
        "encoding": {"x": x.channel(rows) | {"axis": {"format": "~s"}}, "y": y.channel(rows)},
        "layer": [layer for layer in layers if layer],
    }


def _placed(rows: list[dict[str, Any]], x: Axis, y: Axis) -> list[dict[str, Any]]:
    """The rows with places for their labels, and whether they are on the front."""
    (left, right), (low, high) = x.domain(rows), y.domain(rows)
    ordered = sorted(rows, key=lambda row: not row["kept"])  # the one that matters takes its place first
    points = {
        row["place"]: ((row[x.field] - left) / (right - left), (high - row[y.field]) / (high - low)) for row in ordered
    }
    front = _front(rows, x, y)
    lines = _steps([points[place] for place in front])
    if (limit := x.drawn_limit(rows)) is not None:
        share = (limit - left) / (right - left)
        lines.append(((share, 0.0), (share, 1.0)))
    if (limit := y.drawn_limit(rows)) is not None:
        share = (high - limit) / (high - low)
        lines.append(((0.0, share), (1.0, share)))
    places = place_labels(list(points.values()), [row["text"] for row in ordered], _HEIGHT, lines)
    return [
        {**row, **asdict(place), "far": place.far, "front": row["place"] in front}
        for row, place in zip(ordered, places, strict=True)
    ]


def _points() -> list[Spec]:
    """A circle where the budget is kept, a cross where it is not, and a ring around the one that was kept."""
    tooltip = [
        {"field": "label", "title": "attempt"},
        {"field": "why", "title": "budget"},
        {"field": "size", "title": "file"},
        {"field": "lost", "title": "drop"},
        {"field": "sqnr", "title": "SQNR"},
        {"field": "latency", "title": "latency"},
        {"field": "layers", "title": "layers at bits"},
    ]
    verdict: Spec = {"field": "verdict", "type": "nominal", "legend": {"title": None, "orient": "top"}}
    shapes = {"domain": [HOLDS, BREAKS], "range": ["circle", "cross"]}
    colours = {"domain": [HOLDS, BREAKS]}
    return [
        {
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0.8},
            "encoding": {
                "shape": verdict | {"scale": shapes},
                "color": verdict | {"scale": colours},
                "tooltip": tooltip,
            },
        },
        {
            "transform": [{"filter": "datum.kept"}],
            "mark": {"type": "point", "shape": "circle", "filled": False, "size": 260, "style": "line"},
        },
    ]


def _labels(x: Axis, y: Axis) -> list[Spec]:
    """The labels, with leaders where they are far from their points."""
    ends = {"x2Offset": {"expr": "datum.right"}, "y2Offset": {"expr": "datum.down"}}
    leader = {"type": "rule", "style": "note", "strokeWidth": 0.75, **ends}
    words: Spec = {"type": "text", "baseline": "middle"}
    words |= {key: {"expr": f"datum.{name}"} for key, name in (("dx", "right"), ("dy", "down"), ("align", "align"))}
    return [
        {
            "transform": [{"filter": "datum.far"}],
            "mark": leader,
            "encoding": {"x2": {"field": x.field}, "y2": {"field": y.field}},
        },
        *[
            {"mark": words | {"style": style}, "encoding": {"text": {"field": "text"}}}
            for style in ("halo", "value")  # so that lines pass behind
        ],
    ]


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
    longest = max(row["latency_ms"] for row in rows)
    near = limit is not None and limit <= 2 * longest
    scale = {"domain": [0, 1.02 * max(longest, limit if near and limit else 0.0)]}
    axis = {"orient": "top", "title": "latency of an image, ms"}
    names = [row["label"] for row in rows]
    layers: list[Spec] = [
        {"mark": {"type": "bar", "height": 13, "cornerRadiusEnd": 2, "style": "covered"}},
        {
            "mark": {"type": "text", "align": "left", "dx": 8, "style": "note"},
            "encoding": {"x": {"value": "width"}, "text": {"field": "latency"}},
        },
    ]
    if near:
        line = {"type": "rule", "strokeDash": [5, 4], "style": "line"}
        layers.append({"data": {"values": [{"latency_ms": limit}]}, "mark": line, "encoding": {"y": None}})
    return {
        "description": "Latency of every attempt's file. The table below has the numbers.",
        "data": {"values": rows},
        "height": 22 * len(rows),
        "encoding": {
            "y": {"field": "label", "type": "nominal", "sort": names, "title": None},
            "x": {"field": "latency_ms", "type": "quantitative", "axis": axis, "scale": scale},
            "tooltip": [
                {"field": "label", "title": "attempt"},
                {"field": "latency"},
                {"field": "speed", "title": "than float"},
            ],
        },
        "layer": layers,
    }
