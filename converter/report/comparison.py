"""Tables of a comparison: every layer, the worst images, the models end to end, and a suggestion."""

import math
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from converter.comparison.compare import Comparison, LayerError
from converter.comparison.suggestion import Suggestion
from converter.data.preprocess import Preprocess
from converter.display.numbers import decibels, percent
from converter.display.plain import one_line
from converter.report.table import plain_table, preprocessing, row

__all__ = ["comparison_tables", "suggestion_text"]

_NOTHING_ADDED_DB = 60.0  # an operator without weights whose own SQNR is at least this is not listed


def comparison_tables(
    comparison: Comparison, preprocess: Preprocess | None, most: int | None = None
) -> list[RenderableType]:
    """Build the tables of the layers, of the worst images, and of the models end to end.

    Args:
        comparison: The comparison.
        preprocess: Preprocessing of the images.
        most: Number of layers to show, those that add most error. The default is all, in the order of the graph.
    """
    shown = [entry for entry in comparison.layers if entry.layers or entry.introduced_db < _NOTHING_ADDED_DB]
    if most is not None:
        shown = sorted(shown, key=lambda entry: entry.introduced_db)[:most]
    columns = ["layer", *(["zeros"] if comparison.zeros else []), "compared after", "so far", "added", "cosine"]
    table = plain_table("", columns, numbers=range(len(columns) - 3, len(columns)))
    for entry in shown:
        row(
            table,
            _named(entry),
            *([_zeros(entry, comparison)] if comparison.zeros else []),
            entry.op,
            decibels(entry.sqnr_db),
            decibels(entry.introduced_db),
            f"{entry.cosine:.4f}",
        )
    hidden = len(comparison.layers) - len(shown)
    notes = ["SQNR of everything so far, and of", "what the layer itself adds"]
    if hidden:
        notes += ["operators that add nothing" if most is None else "those that add less", f"are not listed: {hidden}"]
    table.caption = "\n".join(notes)
    return [table, *([_worst_table(comparison)] if comparison.worst else []), _whole(comparison, preprocess)]


def _worst_table(comparison: Comparison) -> RenderableType:
    labelled = any(error.label is not None for error in comparison.worst)
    classified = any(error.expected is not None for error in comparison.worst)
    columns = [
        "image",
        "SQNR",
        *(["class in float", "class"] if classified else []),
        *(["label"] if labelled else []),
    ]
    table = plain_table("Worst samples", columns, numbers=range(1, len(columns)))
    for error in comparison.worst:
        cells = [error.image, decibels(error.sqnr_db)]
        cells += [str(error.expected), str(error.found)] if classified else []
        row(table, *cells, *([str(error.label)] if labelled else []))
    return table


def _whole(comparison: Comparison, preprocess: Preprocess | None) -> RenderableType:
    whole = plain_table("", ["end to end", ""], numbers={1})
    row(whole, "samples", f"{comparison.images:,}")
    row(whole, "preprocessing", preprocessing(preprocess))
    if comparison.agreement is not None:
        row(whole, "agreement", percent(comparison.agreement))
    if comparison.metric is not None:
        for called, value in zip((comparison.reference, comparison.model), comparison.values, strict=True):
            if value is not None:
                row(whole, f"{comparison.metric.name} of {called}", comparison.metric.shown(value))
    if len(comparison.outputs) > 1:
        for output, error in sorted(comparison.outputs.items(), key=lambda item: item[1]):
            row(whole, f"SQNR of {output}", decibels(error))
    else:
        row(whole, "SQNR of the output", decibels(comparison.sqnr_db))
    if comparison.taken is not None:
        row(whole, "channels", comparison.taken.describe())
    lowest = _lowest(comparison.layers)
    if lowest is not None:
        row(whole, "adds most", f"{decibels(lowest.introduced_db)} at {_named(lowest)}")
    if comparison.transformed:
        row(whole, "tensors scaled, rotated or in another order", str(len(comparison.transformed)))
    if comparison.unmatched:
        row(whole, "tensors without a counterpart", str(len(comparison.unmatched)))
    return whole


def _named(entry: LayerError) -> str:
    """Name the layer, and count the other layers since the last tensor that could be compared."""
    *before, last = entry.layers or (entry.layer,)
    return f"{last} (and {len(before)} before)" if before else last


def _zeros(entry: LayerError, comparison: Comparison) -> str:
    """Return the share of zero weights of the layer that gives the row its name. Empty if it is unknown."""
    share = comparison.zeros.get((*entry.layers, entry.layer)[max(len(entry.layers) - 1, 0)])
    return "" if share is None else percent(share)


def _lowest(layers: Sequence[LayerError]) -> LayerError | None:
    known = [entry for entry in layers if entry.layers and math.isfinite(entry.introduced_db)]
    return min(known, key=lambda entry: entry.introduced_db, default=None)


def suggestion_text(suggestion: Suggestion, command: str, other: str) -> list[RenderableType]:
    """Describe the suggestion, the ``command`` that applies it and the ``other`` way, or say why there is none."""
    if suggestion.why:
        return [Text(f"\nNo suggestion: {one_line(suggestion.why)}.")]
    names = one_line(", ".join([*suggestion.exclude, *(suggestion.bits or {})]))
    advice = (
        f"\nWith {names} in float, the SQNR of the worst output rises by {suggestion.gain_db:.1f} dB "
        f"({suggestion.images} samples). Try"
    )
    line = Text(f"  {one_line(command)}", style="cyan", no_wrap=True, overflow="ignore")
    return [Text(advice), line, Text(other)]
