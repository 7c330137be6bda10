"""Results as rich tables: one style for all of them, on a terminal, in a pipe and in HTML."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from converter.compare import Comparison
from converter.evaluate import Evaluation, Measurement
from converter.inspect import Inspection
from converter.recipe import Recipe
from converter.result import LayerReport, Result

__all__ = [
    "before_after_table",
    "comparison_tables",
    "evaluation_table",
    "float_layers_table",
    "inspection_tables",
    "layers_table",
    "recipes_table",
    "show",
    "weights_table",
]

_PIPED_WIDTH = 100
_UNITS = ("B", "kB", "MB", "GB")


def show(renderables: Sequence[RenderableType], file: IO[str] | None = None) -> None:
    """Print to stdout, or to ``file``: as wide as a terminal, or, in a pipe, as wide as the content without styles."""
    console = Console(file=file, highlight=False)
    if console.is_terminal:
        for renderable in renderables:
            console.print(renderable)
        return
    wide = Console(file=file, width=10_000)
    widths = [wide.measure(renderable).maximum for renderable in renderables]
    console = Console(file=file, width=max([_PIPED_WIDTH, *widths]), highlight=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    text = "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"
    encoding = console.encoding
    console.file.write(text.encode(encoding, "replace").decode(encoding))
    console.file.flush()


def before_after_table(result: Result, before: int, after: int) -> Table:
    """File size and, where they were measured, accuracy and latency of a conversion; sizes in bytes."""
    table = plain_table("", ["", "before", "after", "change"], numbers={1, 2, 3})
    table.add_row("File", size(before), size(after), _ratio(before / after, "smaller", "larger"))
    if result.metrics is None:
        return table
    first, last = result.metrics.models[0], result.metrics.models[-1]
    if first.top1 is not None and last.top1 is not None:
        points = 100 * (last.top1 - first.top1)
        table.add_row("Top-1", _percent(first.top1), _percent(last.top1), f"{points:+.2f} points")
    if last.agreement is not None:
        table.add_row("Agreement", "", _percent(last.agreement), "")
    table.add_row("SQNR", "", _db(last.sqnr_db), "")
    if last.speedup is not None:
        table.add_row("Latency", _ms(first), _ms(last), _ratio(last.speedup, "faster", "slower"))
    table.caption = f"{last.images:,} images\nlatency: 1 image, 1 thread"
    return table


def weights_table(layers: Iterable[LayerReport]) -> Table:
    """How many layers got which weights and activations, and the SQNR of their outputs."""
    groups: dict[tuple[int, int, int, str], list[LayerReport]] = {}
    for layer in layers:
        key = (layer.bits, layer.stored_bits, layer.activation_bits, layer.granularity)
        groups.setdefault(key, []).append(layer)
    columns = ["weights", "activations", "scale per", "layers", "median SQNR", "lowest SQNR", "at"]
    table = plain_table("", columns, numbers={3, 4, 5})
    for (bits, stored, activations, granularity), members in sorted(groups.items()):
        weights = _bits(bits) if stored == bits else f"{_bits(bits)} in int{stored}"
        known = sorted((layer.after_db, layer.name) for layer in members if layer.after_db is not None)
        middle, lowest = (known[len(known) // 2][0], known[0]) if known else (None, (None, ""))
        table.add_row(
            weights, _bits(activations), granularity, str(len(members)), _db(middle), _db(lowest[0]), lowest[1]
        )
    return table


def float_layers_table(layers: Iterable[LayerReport]) -> Table | None:
    """The layers that stayed in float, and why; None if there are none."""
    table = plain_table("Left in float", ["layer", "op", "why"])
    for layer in layers:
        if layer.reason:
            table.add_row(layer.name, layer.op, layer.reason)
    return table if table.row_count else None


def layers_table(layers: Iterable[LayerReport]) -> Table:
    """Every layer with what was done to it."""
    columns = ["layer", "op", "shape", "weights", "activations", "rounded", "written", "what"]
    table = plain_table("Layers", columns, numbers={5, 6})
    for layer in layers:
        table.add_row(
            layer.name,
            layer.op,
            "x".join(map(str, layer.shape)),
            _bits(layer.bits),
            _bits(layer.activation_bits),
            _db(layer.before_db),
            _db(layer.after_db),
            layer.reason or layer.note,
        )
    table.caption = "SQNR of the weights: plainly rounded, as written"
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Models side by side; the first is the reference."""
    columns = ["model", "size", "top-1", "agreement", "SQNR", "latency", "speed"]
    table = plain_table("", columns, numbers=set(range(1, 7)))
    for place, model in enumerate(evaluation.models):
        top1 = "-" if model.top1 is None else f"{_percent(model.top1)} ± {100 * (model.top1_error or 0):.2f}"
        agreement = "-" if model.agreement is None else _percent(model.agreement)
        others = (agreement, _db(model.sqnr_db)) if place else ("", "")
        table.add_row(model.model, size(model.bytes), top1, *others, _ms(model), _speed(model.speedup))
    images = evaluation.data.get("images")
    table.caption = f"{images:,} images; agreement, SQNR, speed: against the first\nlatency: 1 image, 1 thread"
    return table


def comparison_tables(comparison: Comparison) -> list[RenderableType]:
    """SQNR of every shared tensor, then the models end to end."""
    table = plain_table("", ["layer", "op", "tensor", "SQNR"], numbers={3})
    for row in comparison.layers:
        table.add_row(row.layer, row.op, row.tensor, _db(row.sqnr_db))
    whole = plain_table("", ["end to end", ""], numbers={1})
    whole.add_row("images", f"{comparison.images:,}")
    if comparison.agreement is not None:
        whole.add_row("agreement", _percent(comparison.agreement))
    whole.add_row("SQNR", _db(comparison.sqnr_db))
    if comparison.unmatched:
        whole.add_row("tensors without a counterpart", str(len(comparison.unmatched)))
    return [table, whole]


def inspection_tables(inspection: Inspection) -> list[RenderableType]:
    """Every linear layer, why some are not fused, then the bytes by type and the file's own facts."""
    columns = ["layer", "op", "weights", "storage", "bytes", "scale per", "input", "fused"]
    table = plain_table("", columns, numbers={4})
    for layer in inspection.layers:
        table.add_row(
            layer.name,
            layer.op,
            "-" if layer.weight_bits is None else _bits(layer.weight_bits, layer.storage),
            layer.storage,
            f"{layer.bytes:,}",
            layer.granularity,
            _bits(layer.activation_bits),
            Text("yes", style="green") if layer.fused else Text("no", style="yellow"),
        )
    reasons: dict[str, list[str]] = {}
    for layer in inspection.layers:
        if layer.reason:
            reasons.setdefault(layer.reason, []).append(layer.name)
    why = plain_table("", ["not fused because", "layers"])
    for reason, names in reasons.items():
        why.add_row(reason, f"{len(names)}: {', '.join(names)}")
    model = inspection.model
    facts = plain_table("", ["file", ""])
    facts.add_row("size", f"{size(model['bytes'])} ({model['bytes']:,} bytes)")
    facts.add_row("constants", ", ".join(f"{kind} {size(count)}" for kind, count in inspection.bytes_by_type.items()))
    facts.add_row("opsets", ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items()))
    facts.add_row("producer", model["producer"] or "-")
    for key in ("recipe", "target"):
        if key in model:
            facts.add_row(key, str(model[key]))
    fused = sum(layer.fused for layer in inspection.layers)
    facts.add_row("layers on integers", f"{fused} of {len(inspection.layers)}")
    return [table, *([why] if reasons else []), facts]


def recipes_table(recipes: Mapping[str, Recipe]) -> Table:
    """Every recipe with its passes."""
    table = plain_table("", ["recipe", "what", "passes", "storage"])
    for recipe in recipes.values():
        table.add_row(recipe.name, recipe.description, ", ".join(step.name for step in recipe.passes), recipe.storage)
    return table


def size(count: int) -> str:
    """Bytes as people read them, in powers of 1000.

    >>> size(46_800_000)
    '46.8 MB'
    """
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def plain_table(title: str, columns: Sequence[str], numbers: Iterable[int] = ()) -> Table:
    right = set(numbers)
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(columns):
        if index in right:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def _bits(bits: int, storage: str = "") -> str:
    return f"float{bits}" if "float" in storage or (not storage and bits >= 32) else f"{bits} bits"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _db(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} dB" if math.isfinite(value) else "equal"


def _ms(model: Measurement) -> str:
    return "-" if model.latency_ms is None else f"{model.latency_ms:,.2f} ms"


def _ratio(ratio: float, more: str, less: str) -> str:
    return f"{ratio:.2f}x {more}" if ratio >= 1 else f"{1 / ratio:.2f}x {less}"


def _speed(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"
