"""Section on the distribution of a layer's weights before and after rounding. The reader picks the layer."""

import math
from collections.abc import Mapping
from typing import Any

from converter.report.page.section import Section, Spec

__all__ = ["weights"]

BEFORE, AFTER = "before rounding", "as written"


def weights(facts: Mapping[str, Any]) -> Section | None:
    """Build the section: a histogram of the layer that is picked, and a table of all layers."""
    layers = [layer for layer in facts["layers"] if layer["weights"] is not None]
    if not layers:
        return None
    layers.sort(key=lambda layer: math.inf if layer["after_db"] is None else layer["after_db"])
    return Section("weights", "Weights", {"layers": layers}, {"weights-chart": _chart(layers)})


def _chart(layers: list[Mapping[str, Any]]) -> Spec:
    rows = []
    for layer in layers:
        histogram = layer["weights"]
        total, bins = sum(histogram["before"]), len(histogram["before"])
        step = (histogram["high"] - histogram["low"]) / bins
        shares = {kind: [round(100 * count / total, 4) for count in histogram[kind]] for kind in ("before", "after")}
        rows.append({"layer": layer["name"], "low": histogram["low"], "step": step, **shares})
    y = {"type": "quantitative", "title": "share of the weights, %"}
    return {
        "description": f"Distribution of the weights of the chosen layer, {BEFORE} and {AFTER}.",
        "data": {"values": rows},
        "params": [{"name": "picked", "bind": {"element": "#weights-layer", "event": "change"}}],
        "transform": [
            {"filter": "datum.layer == picked"},
            {"flatten": ["before", "after"]},
            {"window": [{"op": "row_number", "as": "bin"}]},
            {"calculate": "datum.low + (datum.bin - 1) * datum.step", "as": "left"},
            {"calculate": "datum.left + datum.step", "as": "right"},
        ],
        "height": 240,
        "encoding": {
            "x": {"field": "left", "type": "quantitative", "title": "value of the weight", "scale": {"nice": False}},
            "tooltip": [
                {"field": "left", "title": "from", "format": ".4g"},
                {"field": "right", "title": "to", "format": ".4g"},
                {"field": "before", "title": f"{BEFORE}, %", "format": ".2f"},
                {"field": "after", "title": f"{AFTER}, %", "format": ".2f"},
            ],
            "color": {
                "type": "nominal",
                "scale": {"domain": [AFTER, BEFORE]},
                "legend": {"title": None, "orient": "top"},
            },
        },
        "layer": [
            {
                "mark": {"type": "bar", "binSpacing": 0, "opacity": 0.75},
                "encoding": {
                    "x": {"field": "left", "type": "quantitative", "bin": {"binned": True}},
                    "x2": {"field": "right"},
                    "y": {"field": "after", **y},
                    "color": {"datum": AFTER},
                },
            },
            {
                "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2},
                "encoding": {"y": {"field": "before", **y}, "color": {"datum": BEFORE}},
            },
        ],
    }
