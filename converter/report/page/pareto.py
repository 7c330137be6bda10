"""Parts of a plot of size against quality: axes, the stepped line of the best files, and labels that cover nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from converter.report.page.label_places import Point, place_labels
from converter.report.page.section import Spec

__all__ = ["HEIGHT", "Axis", "label_layers", "limit_layer", "stepped_line", "with_places"]

HEIGHT = 320
"""Pixels of the plot."""

_MARGIN = 0.12  # share of an axis that is left free beyond its outermost points
_NEAR_LIMIT = 1.0  # a limit is drawn if it is at most this many spreads of the points away from them


@dataclass(frozen=True)
class Axis:
    """One of the two axes of a plot.

    Attributes:
        field: Field of a row that the axis shows.
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


def with_places(rows: list[dict[str, Any]], x: Axis, y: Axis) -> list[dict[str, Any]]:
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
    places = place_labels(list(points.values()), [row["text"] for row in ordered], HEIGHT, lines)
    return [
        {**row, **asdict(place), "far": place.far, "front": row["place"] in front}
        for row, place in zip(ordered, places, strict=True)
    ]


def label_layers(x: Axis, y: Axis) -> list[Spec]:
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


def limit_layer(axis: Axis, rows: Sequence[Mapping[str, Any]], channel: str) -> Spec:
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


def stepped_line(x: Axis) -> Spec:
    """Draw the line through the files than which no other is both smaller and better."""
    return {
        "transform": [{"filter": "datum.front"}],
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5, "style": "note"},
        "encoding": {"order": {"field": x.field}},
    }
