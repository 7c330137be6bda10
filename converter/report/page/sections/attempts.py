"""Section on the attempts of a search for a budget: size and cost of each file, and which file was kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from converter.display.numbers import decibels, lost, milliseconds, ratio, size
from converter.report.page.pareto import HEIGHT, Axis, label_layers, limit_layer, stepped_line, with_places
from converter.report.page.section import Section, Spec

__all__ = ["attempts"]

HOLDS, BREAKS = "keeps the budget", "breaks it"


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


def _plot(rows: list[dict[str, Any]], x: Axis, y: Axis) -> Spec:
    layers: list[Spec] = [limit_layer(axis, rows, channel) for axis, channel in ((x, "x"), (y, "y"))]
    layers += [
        stepped_line(x),
        *_points(),
        *label_layers(x, y),
    ]
    return {
        "description": f"Bytes of every attempt's file against {y.title}. The table below has the numbers.",
        "data": {"values": with_places(rows, x, y)},
        "height": HEIGHT,
        "encoding": {"x": x.channel(rows) | {"axis": {"format": "~s"}}, "y": y.channel(rows)},
        "layer": [layer for layer in layers if layer],
    }


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
