"""Section on the bits of each layer in a search for a budget, with the effect of the other choices."""

import math
from collections.abc import Mapping
from typing import Any

from converter.display.numbers import count
from converter.report.page.section import SHORT_NAME, Section, Spec, height_of

__all__ = ["alone_db", "bits"]

_COMPARED = "4"  # bits at which layers are compared
_FAINT = 30.0  # dB from the noisiest choice to the end of the colour scale


def bits(facts: Mapping[str, Any]) -> Section | None:
    """Build a row of choices for every layer, ordered by the worth of a bit. None if no choices were compared."""
    search = facts["search"]
    if search is None or search["kept"] is None or not search["effects"]:
        return None
    chosen = search["attempts"][search["kept"]]["layer_bits"]
    rows = [_row(effect, chosen.get(effect["name"])) for effect in search["effects"]]
    rows.sort(key=lambda row: -row["worth"])
    weights: dict[int, list[int]] = {}
    for row in rows:
        weights.setdefault(row["bits"] or 32, []).append(row["weights"])
    total = sum(row["weights"] for row in rows)
    groups = [(many, len(sizes), sum(sizes) / total) for many, sizes in sorted(weights.items())]
    drawn = [row for row in rows if row["alone"]]
    charts = {"bits-chart": _chart(drawn)} if drawn else {}
    return Section("bits", "Bits of each layer", {"rows": rows, "groups": groups, "charts": charts}, charts)


def alone_db(effect: Mapping[str, Any]) -> dict[str, float]:
    """Return the SQNR in dB of the network's output for each number of bits, with this layer alone quantized.

    It is ``own_db - 10 log10(importance)``, where ``own_db`` is the SQNR of the layer's own output. The result is
    empty if the importance is not known.
    """
    importance = effect["importance"]
    if importance is None or importance <= 0:
        return {}
    return {many: db - 10 * math.log10(importance) for many, db in effect["own_db"].items() if db is not None}


def _row(effect: Mapping[str, Any], chosen: int | None) -> dict[str, Any]:
    alone = alone_db(effect)
    compared = alone.get(_COMPARED)
    # Noise per weight. At a fixed number of bytes, the bits that minimize the noise grow with its logarithm.
    worth = -math.inf if compared is None else -compared - 10 * math.log10(max(effect["weights"], 1))
    return {**effect, "bits": chosen, "alone": alone, "worth": worth}


def _chart(rows: list[dict[str, Any]]) -> Spec:
    values = [
        {
            "name": row["name"],
            "weights": row["weights"],
            "choice": choice,
            "db": round(db, 3),
            "chosen": str(row["bits"]) == choice,
            "size": count(row["weights"]),
        }
        for row in rows
        for choice, db in row["alone"].items()
    ]
    tooltip = [
        {"field": "name", "title": "layer"},
        {"field": "choice", "title": "bits"},
        {"field": "db", "title": "output, dB", "format": ".1f"},
        {"field": "size", "title": "weights"},
    ]
    names = [row["name"] for row in rows]
    y = {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": {"labelExpr": SHORT_NAME}}
    axis = {"orient": "top", "title": "bits of the weights", "labelAngle": 0}
    x = {"field": "choice", "type": "ordinal", "sort": sorted({row["choice"] for row in values}, key=int), "axis": axis}
    lowest = min(row["db"] for row in values)
    color = {
        "field": "db",
        "type": "quantitative",
        "scale": {"domain": [lowest, lowest + _FAINT], "clamp": True, "interpolate": "rgb"},
        "legend": None,
    }
    text = {"field": "db", "type": "quantitative", "format": ".0f"}
    return {
        "description": "Bits that every layer got, and the noise of each choice. The table below has the numbers.",
        "data": {"values": values},
        "height": height_of(len(rows)),
        "encoding": {"y": y, "tooltip": tooltip},
        "layer": [
            {"mark": {"type": "rect"}, "encoding": {"x": x, "color": color}},
            {
                "transform": [{"filter": "datum.chosen"}],
                "mark": {"type": "rect", "filled": False, "strokeWidth": 2, "style": "line"},
                "encoding": {"x": x},
            },
            {"mark": {"type": "text", "style": "value"}, "encoding": {"x": x, "text": text}},
            {
                "transform": [{"filter": "datum.chosen"}],
                "mark": {"type": "text", "style": "value", "fontWeight": "bold"},
                "encoding": {"x": x, "text": text},
            },
            {
                "transform": [{"aggregate": [{"op": "min", "field": "size", "as": "size"}], "groupby": ["name"]}],
                "mark": {"type": "text", "align": "left", "dx": 8, "style": "note"},
                "encoding": {"x": {"value": "width"}, "text": {"field": "size"}},
            },
        ],
    }
