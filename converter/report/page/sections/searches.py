"""Section on grid searches (SmoothQuant, AWQ and others): the gain of every grid point over an unchanged layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import log10
from typing import Any

import numpy as np

from converter.report.page.section import SHORT_NAME, Section, Spec, height_of

__all__ = ["searches"]


@dataclass(frozen=True)
class Point:
    """One point of a layer's search grid.

    Attributes:
        layer: Name of the layer.
        place: Value of each axis at this point.
        gain: Gain in dB over the unchanged layer, or None if the loss is not known.
    """

    layer: str
    place: tuple[float, ...]
    gain: float | None


@dataclass(frozen=True)
class Search:
    """A pass that searched.

    Attributes:
        name: Name of the pass.
        chart: Id of the chart's element.
        axes: Names of the searched parameters.
        rows: For each layer: name, best grid point, gain there in dB, what was done.
    """

    name: str
    chart: str
    axes: tuple[str, ...]
    rows: list[dict[str, Any]]

    @property
    def picks(self) -> bool:
        """Whether the chart shows one layer at a time. It does with two parameters."""
        return len(self.axes) > 1


def searches(facts: Mapping[str, Any]) -> Section | None:
    """Build a heat map for every pass that searched. None if no pass did."""
    order = {layer["name"]: index for index, layer in enumerate(facts["layers"])}
    performed: list[Search] = []
    charts: dict[str, Spec] = {}
    for index, step in enumerate(facts["passes"]):
        if not step["grids"]:
            continue
        names = sorted(step["grids"], key=order.__getitem__)
        points = {name: list(_points(name, step["grids"][name])) for name in names}
        rows = [_best(name, points[name], step) for name in points]
        axes = tuple(next(iter(step["grids"].values()))["axes"])
        search = Search(step["name"], f"searches-{index}", axes, rows)
        performed.append(search)
        if len(axes) <= 2:
            charts[search.chart] = _chart(search, [point for layer in points.values() for point in layer])
    return Section("searches", "Searches", {"searches": performed, "charts": charts}, charts) if performed else None


def _points(name: str, grid: Mapping[str, Any]) -> Iterator[Point]:
    losses = np.array(grid["losses"], dtype=object).reshape(-1)
    for place, loss in zip(product(*grid["axes"].values()), losses, strict=True):
        known = loss is not None and grid["plain"] is not None and loss > 0 and grid["plain"] > 0
        yield Point(name, place, round(10 * log10(grid["plain"] / loss), 3) if known else None)


def _best(name: str, points: list[Point], step: Mapping[str, Any]) -> dict[str, Any]:
    known = [point for point in points if point.gain is not None]
    best = max(known, key=lambda point: point.gain or 0.0, default=None)
    return {
        "layer": name,
        "place": None if best is None else best.place,
        "gain": None if best is None else best.gain,
        "done": step["changed"].get(name) or step["skipped"].get(name, ""),
    }


def _chart(search: Search, points: list[Point]) -> Spec:
    first = search.axes[0]
    best = {(row["layer"], row["place"]) for row in search.rows if (row["gain"] or 0) > 0}
    values = [
        {
            "layer": point.layer,
            "gain": point.gain,
            "best": (point.layer, point.place) in best,
            **dict(zip(search.axes, point.place, strict=True)),
        }
        for point in points
        if point.gain is not None
    ]
    side = "bottom" if search.picks else "top"
    axis = {"orient": side, "labelAngle": 0, "labelOverlap": "greedy"}
    x = {"field": first, "type": "ordinal", "title": first, "axis": axis}
    gains = [point.gain for point in points if point.gain is not None]
    ends = [min([-0.1, *gains]), 0, max([0.1, *gains])]
    color = {
        "field": "gain",
        "type": "quantitative",
        "scale": {"domain": ends, "interpolate": "rgb", "range": "diverging"},
        "legend": {"title": "gain, dB", "orient": "top", "gradientLength": 160, "format": ".1f"},
    }
    tooltip: list[Spec] = [{"field": name} for name in ("layer", *search.axes)]
    tooltip.append({"field": "gain", "title": "gain, dB", "format": ".2f"})
    spec: Spec = {
        "description": f"Gain of every point of the search of {search.name} over the unchanged layer, in decibels.",
        "data": {"values": values},
        "encoding": {"x": x},
    }
    if not search.picks:
        names = [row["layer"] for row in search.rows]
        spec["height"] = height_of(len(names))
        y = {"field": "layer", "type": "nominal", "sort": names, "title": None, "axis": {"labelExpr": SHORT_NAME}}
        spec["encoding"] |= {"y": y, "tooltip": tooltip}
        spec["layer"] = [
            {"mark": {"type": "rect"}, "encoding": {"color": color}},
            {
                "transform": [{"filter": "datum.best"}],
                "mark": {"type": "point", "filled": True, "size": 24, "style": "line"},
            },
        ]
        return spec
    second = search.axes[1]
    spec["params"] = [{"name": "picked", "bind": {"element": f"#{search.chart}-layer", "event": "change"}}]
    spec["transform"] = [{"filter": "datum.layer == picked"}]
    spec["height"] = 34 * len({point.place[1] for point in points})
    spec["encoding"] |= {"y": {"field": second, "type": "ordinal", "title": second, "sort": "descending"}}
    spec["layer"] = [
        {"mark": {"type": "rect"}, "encoding": {"color": color, "tooltip": tooltip}},
        {"mark": {"type": "text", "style": "value"}, "encoding": {"text": {"field": "gain", "format": ".1f"}}},
    ]
    return spec
