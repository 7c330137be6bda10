"""Page of a sweep: a plot of all files, one for each model and target, what failed, and every number."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from converter.display.numbers import decibels, faster
from converter.metrics.metric_run import MetricFacts
from converter.pipeline.result import versions
from converter.pipeline.sweep_record import Sweep
from converter.report.page.names import shown
from converter.report.page.pareto import HEIGHT, Axis, label_layers, stepped_line, with_places
from converter.report.page.render import render_page
from converter.report.page.section import Section, Spec

__all__ = ["render_sweep"]

_MOST_GROUPS = 24  # plots of one model and target
_SHARE = "size of the file, share of float"


def render_sweep(sweep: Sweep) -> str:
    """Render the page of a sweep."""
    content = sweep.to_json()
    values = {key: value for key, value in sweep.quality.of.items() if math.isfinite(value)}
    rows = [
        {**row, **_words(row), "way": each.way, "quality": values.get(each.key)}
        for row, each in zip(content["rows"], sweep.rows, strict=True)
    ]
    facts = shown(
        {
            "quality": content["quality"],
            "rows": rows,
            "failed": [row for row in rows if row["failure"]],
            "done": [row for row in rows if not row["failure"]],
            "models": len({row["model"] for row in rows}),
            "ways": len({row["way"] for row in rows}),
            "targets": len({row["target"] for row in rows}),
        }
    )
    sections = [section for build in _SECTIONS if (section := build(facts)) is not None]
    return render_page("sweep.html", facts, sections, versions()["convert-onnx"])


def _words(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table shows of a row."""
    if row["failure"]:
        return {}
    quartiles = None if row["speedup_low"] is None else (row["speedup_low"], row["speedup_high"])
    measure = None if row["measure"] is None else MetricFacts(**row["measure"])
    return {
        "share": row["bytes"] / row["float_bytes"] if row["float_bytes"] else None,
        "sqnr": "equal" if row["samples"] and row["sqnr_db"] is None else decibels(row["sqnr_db"]),
        "speed": faster(row["speedup"], quartiles),
        "judged": f"{row['samples']:,} samples: {row['judged_on']}" if row["samples"] else "",
        "metric_shown": "" if measure is None else measure.shown(row["metric"]),
    }


def _overall(facts: Mapping[str, Any]) -> Section | None:
    """Build the plot of all files, if there are several models or targets."""
    rows = [row for row in facts["done"] if row["quality"] is not None and row["share"] is not None]
    if not rows or facts["models"] * facts["targets"] == 1:
        return None
    x, y = Axis("share", _SHARE, None, 1), _quality_axis(facts)
    colour = {"field": "way", "type": "nominal", "sort": None, "legend": {"title": None, "orient": "top", "columns": 3}}
    spec: Spec = {
        "description": f"Size of every file against {y.title}. The table below has the numbers.",
        "data": {"values": [_drawn(row) for row in rows]},
        "height": HEIGHT,
        "mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.75},
        "encoding": {
            "x": x.channel(rows) | {"axis": {"format": ".0%"}},
            "y": y.channel(rows),
            "color": colour,
            "tooltip": _tooltip(y),
        },
    }
    return Section("overall", "All files", {}, {"overall-chart": spec})


def _alternatives(facts: Mapping[str, Any]) -> Section | None:
    """Build a plot for each model and target."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in facts["done"]:
        if row["quality"] is not None:
            found.setdefault((row["model"], row["target"]), []).append(row)
    if not found:
        return None
    groups, charts = [], dict[str, Spec]()
    for index, ((model, target), rows) in enumerate(list(found.items())[:_MOST_GROUPS]):
        name = f"alternatives-{index}"
        charts[name] = _plot(rows, Axis("bytes", "bytes of the file", None, 1), _quality_axis(facts))
        best = ", ".join(row["way"] for row in sorted(rows, key=lambda row: row["bytes"]) if row["best"])
        groups.append({"title": f"{model} for {target}", "chart": name, "said": f"On the line: {best}."})
    values = {"groups": groups, "more": max(len(found) - _MOST_GROUPS, 0)}
    return Section("alternatives", "Each model", values, charts)


def _failures(facts: Mapping[str, Any]) -> Section | None:
    return Section("failures", "Failed") if facts["failed"] else None


def _numbers(facts: Mapping[str, Any]) -> Section | None:
    if not facts["done"]:
        return None
    measured = [row["measure"]["name"] for row in facts["done"] if row["measure"] is not None]
    return Section("numbers", "In numbers", {"rows": facts["done"], "metric": measured[0] if measured else ""})


_SECTIONS: tuple[Callable[[Mapping[str, Any]], Section | None], ...] = (_overall, _alternatives, _failures, _numbers)


def _quality_axis(facts: Mapping[str, Any]) -> Axis:
    return Axis("quality", facts["quality"]["title"], None, 1 if facts["quality"]["lower_is_better"] else -1)


def _drawn(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a chart needs of a row."""
    names = ("model", "way", "target", "bytes", "share", "quality", "sqnr", "speed", "best")
    return {name: row[name] for name in names}


def _plot(rows: list[dict[str, Any]], x: Axis, y: Axis) -> Spec:
    drawn = [{**_drawn(row), "place": place, "text": row["way"], "kept": row["best"]} for place, row in enumerate(rows)]
    colour = {
        "field": "best",
        "type": "nominal",
        "scale": {"domain": [True, False]},
        "legend": None,
    }
    return {
        "description": f"Bytes of every file of {rows[0]['model']} against {y.title}. The table below has the numbers.",
        "data": {"values": with_places(drawn, x, y)},
        "height": HEIGHT,
        "encoding": {"x": x.channel(rows) | {"axis": {"format": "~s"}}, "y": y.channel(rows)},
        "layer": [
            stepped_line(x),
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0.85},
                "encoding": {"color": colour, "tooltip": _tooltip(y)},
            },
            *label_layers(x, y),
        ],
    }


def _tooltip(y: Axis) -> list[Spec]:
    return [
        {"field": "model"},
        {"field": "way", "title": "recipe"},
        {"field": "target"},
        {"field": "bytes", "format": ","},
        {"field": "quality", "title": y.title, "format": ".2f"},
        {"field": "sqnr", "title": "SQNR"},
        {"field": "speed", "title": "than float"},
    ]
