"""Section on the attempts of a search for a budget: size and cost of each file, and which file was kept."""

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
_MARGIN = 0.12  # share of an axis that is left free beyond its outermost points
_NEAR_LIMIT = 1.0  # a limit is drawn if it is at most this many spreads of the points away from them


@dataclass(frozen=True)
class Axis:
    """One of the two axes of the plot of attempts.

    Attributes:
        field: Field of an attempt that the axis shows.
        title: Title of the axis.
        limit: Limit of the budget, or None if the budget has none.
        sign: 1 if less is better, -1 if more is better.
    """

    field: str
    title: str
    limit: float | None
    sign: int

    def drawn_limit(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """Return the limit, or None if it is so far away that the points would be squeezed together."""
        values = [row[self.field] for row in rows]
        reach = _NEAR_LIMIT * ((max(values) - min(values)) or abs(values[0]))
        near = self.limit is not None and min(values) - reach <= self.limit <= max(values) + reach
        return self.limit if near else None

    def domain(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """Return the ends of the axis. All points and the limit lie within, with a margin."""
        values = [row[self.field] for row in rows]
        limit = self.drawn_limit(rows)
        values += [] if limit is None else [limit]
        room = _MARGIN * ((max(values) - min(values)) or abs(values[0]) or 1.0)
        return min(values) - room, max(values) + room

    def channel(self, rows: Sequence[Mapping[str, Any]]) -> Spec:
        """Return the channel of the Vega-Lite encoding."""
        scale = {"domain": list(self.domain(rows)), "nice": False, "zero": False}
        return {"field": self.field, "type": "quantitative", "title": self.title, "scale": scale}


def attempts(facts: Mapping[str, Any]) -> Section | None:
    """Build the section: a plot of bytes against loss of quality, a chart of latencies, and a table."""
    search = facts["search"]
    if search is None:
        return None
    rows = [_row(index, attempt, search["kept"]) for index, attempt in enumerate(search["attempts"])]
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


def _row(index: int, attempt: Mapping[str, Any], kept: int | None) -> dict[str, Any]:
    label = f"{index + 1} {attempt['name']}"
    counts = Counter(attempt["layer_bits"].values())
    return {
        **{key: value for key, value in attempt.items() if key != "layer_bits"},
        "place": index,
        "label": label,
        "kept": index == kept,
        "verdict": HOLDS if attempt["holds"] else BREAKS,
        "why": "kept" if index == kept else "holds" if attempt["holds"] else attempt["broken"],
        "layers": ", ".join(f"{count} at {bits}" for bits, count in sorted(counts.items())),
        "size": size(attempt["bytes"]),
        "lost": lost(attempt["drop"]),
        "sqnr": decibels(attempt["sqnr_db"]),
        "latency": milliseconds(attempt["latency_ms"]),
        "speed": "" if attempt["speedup"] is None else ratio(attempt["speedup"], "faster", "slower"),
    }


def _name_points(rows: Sequence[dict[str, Any]]) -> None:
    """Add short labels. Points of one name lie close together, so only the first one shows the name."""
    seen: set[str] = set()
    for row in rows:
        label = str(row["place"] + 1) if row["name"] in seen else row["label"]
        row["text"] = f"{label}, kept" if row["kept"] else label
        seen.add(row["name"])


def _front(rows: Sequence[Mapping[str, Any]], x: Axis, y: Axis) -> list[int]:
    """Return the indices of the attempts on the Pareto front of the two axes, smallest first."""
    front, best = [], float("inf")
    for row in sorted(rows, key=lambda row: (x.sign * row[x.field], y.sign * row[y.field])):
        if y.sign * row[y.field] < best:
            best = y.sign * row[y.field]
            front.append(row["place"])
    return front


def _steps(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """Return the lines of a stepped curve. Each step is horizontal first."""
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
    """Return the rows with the positions of their labels, and whether they are on the Pareto front."""
    (left, right), (low, high) = x.domain(rows), y.domain(rows)
    ordered = sorted(rows, key=lambda row: not row["kept"])  # the kept attempt chooses its label's position first
    points = {
        row["place"]: ((row[x.field] - left) / (right - left), (high - row[y.field]) / (high - low)) for row in ordered
    }
    front = _front(rows, x, y)
    lines = _steps([points[index] for index in front])
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
    """Draw a circle if the budget is kept and a cross if not. The kept attempt gets a ring."""
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
    """Draw the labels. A label far from its point gets a leader line."""
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
            for style in ("halo", "value")  # the halo keeps lines behind the text
        ],
    ]


def _limit(axis: Axis, rows: Sequence[Mapping[str, Any]], channel: str) -> Spec:
    """Draw the limit as a dashed line. The specification is empty if no limit is near."""
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
    axis = {"orient": "top", "title": "latency of a sample, ms"}
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
