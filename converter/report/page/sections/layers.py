"""Section on the error of every layer, largest first, with its bits and its bytes in the file."""

from collections.abc import Mapping
from typing import Any

from converter.display.numbers import decibels, size
from converter.report.page.section import MOST_ROWS, SHORT_NAME, Section, Spec, height_of

__all__ = ["layers", "relative_error"]


def layers(facts: Mapping[str, Any]) -> Section:
    """Build the section: a bar for every quantized layer, and a table of all layers."""
    rows = [_row(layer) for layer in facts["layers"] if layer["after_db"] is not None]
    rows.sort(key=lambda row: -row["error"])
    refined = _refined(facts)
    before = f"before {refined}" if refined else "plainly rounded"
    drawn = rows[:MOST_ROWS]
    charts = {"layers-chart": _chart(drawn, facts["sqnr_of"], before)} if rows else {}
    hidden = len(rows) - len(drawn)
    values = {
        "worst": rows[:1],
        "drawn": len(rows),
        "pruned": any(layer["pattern"] for layer in facts["layers"]),
        "hidden": hidden,
        "refined": refined,
        "before": before,
    }
    return Section("layers", "Layers", values, charts)


def _refined(facts: Mapping[str, Any]) -> str:
    """Name the refinement passes that changed quantized layers last. `before_db` is the SQNR before those passes.

    The name is empty if there are none. Then `before_db` is the SQNR of plain rounding.
    """
    last = {
        next((step["name"] for step in reversed(facts["passes"]) if layer["name"] in step["changed"]), "")
        for layer in facts["layers"]
        if layer["before_db"] is not None
    }
    refined = [step["name"] for step in facts["passes"] if step["name"] in last and step["stage"] == "refinement"]
    return " or ".join(dict.fromkeys(refined))


def relative_error(db: float) -> float:
    """Return RMS(error) / RMS(signal) in percent: 100 * 10^(-db / 20). 20 dB are 10 %."""
    return float(100 * 10 ** (-db / 20))


def _row(layer: Mapping[str, Any]) -> dict[str, Any]:
    bits, stored = layer["bits"], layer["storage"].partition(" ")[0]
    plain = layer["before_db"]
    return {
        "name": layer["name"],
        "error": relative_error(layer["after_db"]),
        "plain": None if plain is None else relative_error(plain),
        "sqnr": decibels(layer["after_db"]),
        "rounded": decibels(plain),
        "bits": f"{bits} bits",
        "storage": layer["storage"],
        "size": size(layer["bytes"]),
        "label": f"{stored}, {size(layer['bytes'])}"
        if stored != "matmulnbits"
        else f"int{bits}, {size(layer['bytes'])}",
    }


def _chart(rows: list[dict[str, Any]], sqnr_of: str, before: str) -> Spec:
    names = [row["name"] for row in rows]
    kinds = sorted({row["bits"] for row in rows}, key=lambda bits: int(bits.split()[0]))
    tooltip = [
        {"field": "name", "title": "layer"},
        {"field": "error", "title": "error, %", "format": ".2f"},
        {"field": "sqnr", "title": "SQNR as written"},
        {"field": "rounded", "title": f"SQNR {before}"},
        {"field": "bits", "title": "weights"},
        {"field": "storage", "title": "stored as"},
        {"field": "size", "title": "in the file"},
    ]
    y = {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": {"labelExpr": SHORT_NAME}}
    axis = {"orient": "top", "title": f"error of the layer's {sqnr_of}, % of the signal"}
    return {
        "description": f"Error of every quantized layer's {sqnr_of}, largest first; the table below has the numbers.",
        "data": {"values": rows},
        "height": height_of(len(rows)),
        "encoding": {"y": y},
        "layer": [
            {
                "mark": {"type": "bar", "height": 11, "cornerRadiusEnd": 2},
                "encoding": {
                    "x": {"field": "error", "type": "quantitative", "axis": axis},
                    "color": {
                        "field": "bits",
                        "type": "nominal",
                        "scale": {"domain": kinds},
                        "legend": {"title": "weights", "orient": "top"} if len(kinds) > 1 else None,
                    },
                    "tooltip": tooltip,
                },
            },
            {
                "transform": [{"filter": "isValid(datum.plain)"}],
                "mark": {"type": "tick", "thickness": 2, "height": 13, "style": "line"},
                "encoding": {"x": {"field": "plain", "type": "quantitative"}, "tooltip": tooltip},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "style": "note"},
                "encoding": {"x": {"value": "width"}, "text": {"field": "label"}},
            },
        ],
    }
