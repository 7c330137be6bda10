"""Table and plot of a sensitivity: what rounding each weight and each activation costs."""

from importlib.util import find_spec
from pathlib import Path

from rich.console import RenderableType

from converter.display.numbers import decibels, percent
from converter.display.plain import one_line
from converter.error_sources.sensitivity import Sensitivity
from converter.model_io.save import prepare_output
from converter.model_io.scratch import replacing
from converter.report.table import plain_table, row
from passes.errors import OutputError, UsageError

__all__ = ["check_plot", "sensitivity_table", "write_plot"]

_ROWS = 20  # largest shares that the table shows
_DRAWN = 40  # and that the plot shows
_SUFFIXES = (".png", ".svg")


def sensitivity_table(found: Sensitivity) -> RenderableType:
    """Build the table of the sources with the largest shares."""
    table = plain_table("", ["", "rounded alone", "bits", "SQNR", "at", "share of the error"], numbers={2, 3, 5})
    ranked = found.ranked()
    for source in ranked[:_ROWS]:
        worst = min(source.sqnr_db, key=source.sqnr_db.__getitem__, default="")
        name = source.name + (f" (+{len(source.names) - 1})" if len(source.names) > 1 else "")
        row(table, source.kind, name, str(source.bits), decibels(source.worst_db), worst, percent(found.share(source)))
    more = len(ranked) - _ROWS
    notes = [f"{found.recipe} for {found.target}, {found.samples} samples; SQNR of the output that loses most"]
    notes += ["share: of the sum of all error powers, at the output where it is largest"]
    notes += [f"{more} more have smaller shares; JSON lists them all"] if more > 0 else []
    table.caption = "\n".join(notes)
    return table


def check_plot(path: Path) -> None:
    """Check, before any work, that a plot can be written.

    Raises:
        UsageError: The suffix is neither .png nor .svg, or the package that draws is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path}: a plot is a {' or '.join(_SUFFIXES)} file, not {path.suffix or 'this'!r}")
    if find_spec("vl_convert") is None:
        raise UsageError(f"{path}: a plot needs vl-convert-python; install convert-onnx[report], or use JSON")
    prepare_output(path)


def write_plot(found: Sensitivity, path: Path) -> None:
    """Write bars of the largest shares, as .png or .svg.

    Raises:
        UsageError: `check_plot` refuses the path.
        OutputError: The file cannot be written. An existing file stays as it was.
    """
    import vl_convert

    check_plot(path)
    spec = _chart(found)
    content = (
        vl_convert.vegalite_to_png(spec, scale=2)
        if path.suffix == ".png"
        else vl_convert.vegalite_to_svg(spec).encode()
    )
    try:
        with replacing(prepare_output(path)) as written:
            written.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; give another name") from error


def _chart(found: Sensitivity) -> dict[str, object]:
    """Return the plot as a Vega-Lite specification."""
    ranked = found.ranked()[:_DRAWN]
    values = [
        {
            "name": f"{index + 1}. {one_line(source.name)}",
            "kind": source.kind,
            "share": found.share(source),
            "sqnr": decibels(source.worst_db),
        }
        for index, source in enumerate(ranked)
    ]
    y = {
        "field": "name",
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": {"labelLimit": 260, "ticks": False, "domain": False},
    }
    x = {
        "field": "share",
        "type": "quantitative",
        "title": "share of the error at the output where it is largest",
        "axis": {"format": "%", "orient": "top"},
    }
    colour = {
        "field": "kind",
        "type": "nominal",
        "title": "rounded alone",
        "scale": {"domain": ["weight", "activation"], "range": ["#2f6fc4", "#c2571a"]},
        "legend": {"orient": "bottom"},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": {
            "text": f"What rounding costs: {found.recipe} for {found.target}",
            "subtitle": f"{len(ranked)} of {len(found.sources)} weights and activations, {found.samples} samples; "
            "beside each bar: SQNR of the worst output if only this is rounded",
            "anchor": "start",
        },
        "background": "white",
        "padding": 16,
        "width": 560,
        "height": {"step": 18},
        "data": {"values": values},
        "encoding": {"y": y, "x": x},
        "layer": [
            {"mark": {"type": "bar", "height": 11, "cornerRadius": 2}, "encoding": {"color": colour}},
            {"mark": {"type": "text", "align": "left", "dx": 4}, "encoding": {"text": {"field": "sqnr"}}},
        ],
        "config": {"view": {"stroke": None}, "font": "sans-serif"},
    }
