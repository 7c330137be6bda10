"""Results as rich tables, in one style for terminals, pipes and HTML."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from converter.data.preprocess import Preprocess
from converter.display import words
from converter.display.numbers import NOTHING, decibels, faster, milliseconds, percent, points, ratio, size
from converter.display.plain import one_line, shortened
from converter.evaluation.evaluate import Evaluation
from converter.inspection.inspect import Inspection
from converter.pipeline.result import LayerReport, Result, mean_file_bits
from converter.qdq.pruned import CHANNELS_KEY
from converter.recipes.builtin import AUTO, AUTO_DESCRIPTION
from converter.recipes.recipe import Recipe
from converter.runtime.latency import BATCH, THREADS

__all__ = [
    "SPREAD",
    "before_after_table",
    "conversion_tables",
    "evaluation_table",
    "fitted",
    "float_layers_table",
    "inspection_tables",
    "plain_table",
    "preprocessing",
    "recipes_table",
    "row",
    "share_of_zeros",
    "show",
    "weights_table",
]

SPREAD = "in brackets: the range of the middle half of the measurements"
_OUTPUTS = 6  # outputs named below a table
_PIPED_WIDTH = 120
_NARROW = 80  # columns; tables are designed to fit this width


def show(renderables: Sequence[RenderableType], file: IO[str] | None = None) -> None:
    """Print to stdout or to ``file``.

    Output fits the width of a terminal. In a pipe it has no styles and is as wide as its words need.
    """
    console = _console(file)
    if console.is_terminal:
        for renderable in renderables:
            whole = isinstance(renderable, Text) and bool(renderable.no_wrap)  # a command to copy stays on one line
            console.print(fitted(renderable, console), soft_wrap=whole)
        return
    wide = _console(file, 10_000)
    printed = [fitted(each, _console(file, max(_PIPED_WIDTH, _narrowest(each)))) for each in renderables]
    widths = [wide.measure(renderable).maximum for renderable in printed]
    console = _console(file, max([_PIPED_WIDTH, *widths]))
    with console.capture() as capture:
        for renderable in printed:
            console.print(renderable)
    text = "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"
    encoding = console.encoding
    console.file.write(text.encode(encoding, "replace").decode(encoding))
    console.file.flush()


def _console(file: IO[str] | None, width: int | None = None) -> Console:
    """Return a console that shows text as it is: no markup, no emoji codes, no colours of its own."""
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def fitted(renderable: RenderableType, console: Console) -> RenderableType:
    """Fit a table to the width of a terminal without cutting a word.

    If that is impossible, or if the terminal is narrow, the table becomes a list of its rows. Each entry of the list
    is `column value; column value`.
    """
    if not isinstance(renderable, Table):
        return renderable
    natural = _console(None, 10_000).measure(renderable).maximum
    if natural <= console.width:
        return renderable
    longest, widths = _column_widths(renderable)
    spare = console.width - (natural - sum(longest)) - sum(widths)
    if console.width >= _NARROW and spare >= 0:
        wished = sum(longest) - sum(widths)
        for column, width, whole in zip(renderable.columns, widths, longest, strict=True):
            column.width = width + spare * (whole - width) // wished
        return renderable
    lines: list[RenderableType] = (
        [] if renderable.title is None else [Text(str(renderable.title).strip(), style="bold")]
    )
    headers = [str(column.header) for column in renderable.columns]
    for first, *others in zip(*(list(column.cells) for column in renderable.columns), strict=True):
        lines.append(Text(f"{headers[0]} {first}".strip(), style="bold"))
        if not any(headers[1:]):
            lines[-1:] = [Text(": ".join(map(str, [first, *others])))]
            continue
        cells = [f"{header} {cell}".strip() for header, cell in zip(headers[1:], others, strict=True)]
        lines.append(Padding(Text("; ".join(cells)), (0, 0, 0, 2)))
    lines += [] if renderable.caption is None else [Text(str(renderable.caption), style="dim")]
    return Padding(Group(*lines), (1, 0, 0, 0))


def _column_widths(table: Table) -> tuple[list[int], list[int]]:
    """Return the length of the longest cell and of the longest word of every column."""
    texts = [[str(cell) for cell in (column.header, *column.cells)] for column in table.columns]
    longest = [max(map(len, column)) for column in texts]
    longest_words = [max(len(word) for cell in column for word in cell.split() or [""]) for column in texts]
    return longest, [
        whole if column.no_wrap else word
        for column, whole, word in zip(table.columns, longest, longest_words, strict=True)
    ]


def _narrowest(renderable: RenderableType) -> int:
    """Return the width that a table needs if no word is cut. It is 0 for anything but a table."""
    if not isinstance(renderable, Table):
        return 0
    longest, least = _column_widths(renderable)
    return Console(width=10_000).measure(renderable).maximum - sum(longest) + sum(least)


def conversion_tables(result: Result, before: int, after: int, *, verbose: bool = False) -> list[RenderableType]:
    """Build the tables of a conversion: before and after, the layers by bits, and the layers left in float.

    Args:
        result: The conversion.
        before, after: Bytes of the float model and of the file.
        verbose: Whether layers of different forms have rows of their own, although their bits are the same.
    """
    left = float_layers_table(result.layers)
    weights = weights_table(result.layers, result.recipe.sqnr_of, verbose=verbose)
    tables = [before_after_table(result, before, after), weights]
    return [*tables, *([] if left is None else [left])]


def before_after_table(result: Result, before: int, after: int) -> Table:
    """Build the table of file sizes (bytes) and, if measured, of the accuracy and latency of a conversion."""
    table = plain_table("", ["", "before", "after", "change"], numbers={1, 2, 3})
    row(table, words.FILE_SIZE, size(before), size(after), ratio(before / after, "smaller", "larger"))
    calibrated = "" if result.calibration is None else f"calibrated on {_samples(result.calibration)}"
    if result.training is not None:
        held_out = result.training["held_out"]
        learned = f"trained on {words.samples(result.training['images'] - held_out, result.training.get('preprocess'))}"
        calibrated = "\n".join(filter(None, (calibrated, learned, f"epoch chosen on {held_out:,} others")))
    if result.metrics is None:
        table.caption = calibrated or None
        return table
    first, last = result.metrics.models[0], result.metrics.models[-1]
    if first.top1 is not None and last.top1 is not None:
        row(table, words.TOP1, percent(first.top1), percent(last.top1), points(last.top1 - first.top1))
    if last.agreement is not None:
        row(table, words.AGREEMENT, "", percent(last.agreement), "")
    row(table, words.SQNR, "", decibels(last.sqnr_db), "")
    if result.latencies is not None:
        first_ms, last_ms = result.latencies.ms[0], result.latencies.ms[-1]
        change = faster(first_ms / last_ms, result.latencies.quartiles[-1])
        row(table, words.LATENCY, milliseconds(first_ms), milliseconds(last_ms), change)
    lines = (calibrated, f"measured on {_samples(result.metrics.data)}", *_conditions(result.metrics))
    table.caption = "\n".join(filter(None, lines))
    return table


def _samples(data: Mapping[str, Any]) -> str:
    """Return how many samples data have, from their description."""
    return words.samples(data["images"], data.get("preprocess"))


def weights_table(layers: Iterable[LayerReport], sqnr_of: str, *, verbose: bool = False) -> Table:
    """Build the table of layers by bits of weights and activations, with the SQNR of their weights or outputs.

    With ``verbose``, layers of one width have a row for each way in which they are stored and share scales.
    """
    groups: dict[tuple[int, int, int, str], list[LayerReport]] = {}
    for layer in layers:
        form = (layer.stored_bits, layer.granularity) if verbose else (0, "")
        groups.setdefault((layer.bits, form[0], layer.activation_bits, form[1]), []).append(layer)
    pruned = any(layer.pattern for members in groups.values() for layer in members)
    columns = ["weights", "on disk", *(["zeros"] if pruned else []), "activations", "scale per", "layers"]
    columns += ["median SQNR", "lowest SQNR", "at"]
    table = plain_table("", columns, numbers={1, len(columns) - 4, len(columns) - 3, len(columns) - 2})
    for (_, _, activations, _), members in sorted(groups.items(), key=lambda item: (*item[0][:3], len(item[0][3]))):
        known = sorted((layer.after_db, layer.name) for layer in members if layer.after_db is not None)
        middle, lowest = (known[len(known) // 2][0], known[0]) if known else (None, (None, ""))
        described = [_weight_bits(members), f"{mean_file_bits(members):.3g} bits", _bits(activations), _scales(members)]
        if pruned:
            described.insert(2, share_of_zeros(members))
        row(table, *described, str(len(members)), decibels(middle), decibels(lowest[0]), lowest[1])
    table.caption = f"SQNR of each layer's {sqnr_of}; on disk: bits per weight"
    return table


def float_layers_table(layers: Iterable[LayerReport]) -> Table | None:
    """Build the table of layers that stay in float, with reasons. It is None if there are none."""
    table = plain_table("Left in float", ["layer", "op", "why"])
    for layer in layers:
        if layer.reason:
            row(table, layer.name, layer.op, layer.reason)
    return table if table.row_count else None


def evaluation_table(evaluation: Evaluation) -> Table:
    """Build the table of models side by side. The first model is the reference."""
    metric = () if evaluation.metric is None else (evaluation.metric,)
    classes = [
        name for name in ("top1", "agreement") if any(getattr(each, name) is not None for each in evaluation.models)
    ]
    named = [{"top1": "top-1", "agreement": "agreement"}[name] for name in classes]
    columns = ["model", "size", *(each.name for each in metric), *named, "SQNR", "latency", "speed"]
    table = plain_table("", columns, numbers=set(range(1, 8)))
    for index, model in enumerate(evaluation.models):
        top1 = NOTHING if model.top1 is None else f"{percent(model.top1)} ± {100 * (model.top1_error or 0):.2f}"
        agreement = NOTHING if model.agreement is None else percent(model.agreement)
        figures = {"top1": top1, "agreement": agreement if index else ""}
        sqnr = decibels(model.sqnr_db) if index else ""
        speed = faster(model.speedup, evaluation.spread(index)) if index else ""
        values = (each.shown(model.metric) for each in metric)
        told = (figures[name] for name in classes)
        row(table, model.model, size(model.bytes), *values, *told, sqnr, milliseconds(model.latency_ms), speed)
    measured = f"{_samples(evaluation.data)}; agreement, SQNR, speed: against the first model"
    lines = [measured, *_conditions(evaluation)]
    for each in metric:
        of = "labels" if each.truth == "labels" else "the first model's outputs"
        lines.append(f"{each.name}: {'higher' if each.higher_is_better else 'lower'} is better, the truth is {of}")
    last = evaluation.models[-1].outputs
    if len(last) > 1:
        worst = sorted(last.items(), key=lambda item: item[1])
        shown = ", ".join(f"{name} {decibels(error)}" for name, error in worst[:_OUTPUTS])
        lines.append(f"SQNR is that of the worst output; {evaluation.models[-1].model}: {shown}")
    table.caption = "\n".join(map(one_line, lines))
    return table


def inspection_tables(inspection: Inspection) -> list[RenderableType]:
    """Build the tables of all linear layers, of reasons why layers are not fused, and of facts about the file."""
    pruned = any(layer.zeros is not None for layer in inspection.layers)
    columns = ["layer", "op", "weights", *(["zeros"] if pruned else []), "storage", "bytes", "scale per", "input"]
    figures = {index for index, column in enumerate(columns) if column in {"zeros", "bytes"}}
    table = plain_table("", [*columns, "fused"], numbers=figures)
    for layer in inspection.layers:
        row(
            table,
            layer.name,
            layer.op,
            NOTHING if layer.weight_bits is None else _bits(layer.weight_bits, layer.storage),
            *([NOTHING if layer.zeros is None else percent(layer.zeros)] if pruned else []),
            layer.storage,
            f"{layer.bytes:,}",
            layer.granularity,
            layer.activation_type,
            Text("yes", style="green") if layer.fused else Text("no", style="yellow"),
        )
    reasons: dict[str, list[str]] = {}
    for layer in inspection.layers:
        if layer.reason:
            reasons.setdefault(f"fused, but {layer.reason}" if layer.fused else layer.reason, []).append(layer.name)
    why = plain_table("", ["not fused because", "layers"])
    for reason, names in reasons.items():
        row(why, reason, f"{len(names)}: {', '.join(names)}")
    model = inspection.model
    facts = plain_table("", ["file", ""])
    row(facts, "size", f"{size(model['bytes'])} ({model['bytes']:,} bytes)")
    for key in ("inputs", "outputs"):
        row(facts, key, "; ".join(f"{name} {kind}" for name, kind in model[key].items()))
    row(facts, "constants", ", ".join(f"{kind} {size(count)}" for kind, count in inspection.bytes_by_type.items()))
    row(facts, "opsets", ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items()))
    row(facts, "producer", model["producer"] or NOTHING)
    for key in ("recipe", "target"):
        if key in model:
            row(facts, key, str(model[key]))
    if CHANNELS_KEY in model:
        row(facts, "channels", model[CHANNELS_KEY]["summary"])
    if "embedded" in model:
        row(facts, "preprocessing inside", _embedded(model["embedded"]))
    count, integer = len(inspection.layers), sum(layer.on_integers for layer in inspection.layers)
    row(facts, "layers on integers", f"{integer} of {count}")
    if others := sum(layer.fused for layer in inspection.layers) - integer:
        row(facts, "codes times float activations", f"{others} of {count}")
    return [table, *([why] if reasons else []), facts]


def _embedded(inside: Mapping[str, Any]) -> str:
    """Describe preprocessing inside of a file in words."""
    used = Preprocess(**inside["preprocess"])
    scaling = Preprocess(mean=used.mean, std=used.std, channels=used.channels, scale=used.scale)
    return f"{scaling}, of uint8 images {inside['layout']} in {inside['channels']}"


def recipes_table(recipes: Mapping[str, Recipe]) -> Table:
    """Build the table of recipes with their passes."""
    table = plain_table("", ["recipe", "what", "passes", "storage"])
    for recipe in recipes.values():
        row(table, recipe.name, recipe.description, ", ".join(step.name for step in recipe.passes), recipe.storage)
    row(table, AUTO, AUTO_DESCRIPTION, "those of int8, int4 and mixed bits", "packed")
    return table


def plain_table(title: str, columns: Sequence[str], numbers: Iterable[int] = ()) -> Table:
    """Create an empty table in the shared style. ``numbers`` are the columns that are aligned to the right."""
    right = set(numbers)
    table = Table(
        title=f"\n{one_line(title)}" if title else None,
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


def row(table: Table, *cells: str | Text) -> None:
    """Add a row. An empty cell gets a dash, so that it does not look cut off. Long names lose their middle."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in cells))


def _cell(cell: str) -> str:
    """Return a cell as plain text. It may have many words, but no word is long."""
    return " ".join(map(shortened, cell.split(" "))) or NOTHING


def _conditions(evaluation: Evaluation) -> list[str]:
    """Describe how the figures were measured, one line for each condition."""
    lines = [f"latency: batch {BATCH}, {THREADS} thread", *([SPREAD] if evaluation.quartiles else [])]
    if "preprocess" in evaluation.data:
        settings = evaluation.data["preprocess"]
        lines.append(f"preprocessing: {preprocessing(None if settings is None else Preprocess(**settings))}")
    return lines


def preprocessing(preprocess: Preprocess | None) -> str:
    """Describe the preprocessing of images in words."""
    return "none, tensors as they are" if preprocess is None else str(preprocess)


def _bits(bits: int, storage: str = "") -> str:
    return f"float{bits}" if "float" in storage or (not storage and bits >= 32) else f"{bits} bits"


def _weight_bits(layers: Sequence[LayerReport]) -> str:
    """Name the bits of the grid, and those of the stored type if all layers have one that differs."""
    bits, stored = layers[0].bits, {layer.stored_bits for layer in layers}
    return _bits(bits) + (f" in int{stored.pop()}" if len(stored) == 1 and stored != {bits} else "")


def share_of_zeros(layers: Sequence[LayerReport]) -> str:
    """Return the share of the weights of several layers that are zero. Empty if all of them are in float."""
    known = [(layer.zeros, math.prod(layer.shape)) for layer in layers if layer.zeros is not None]
    return percent(sum(share * size for share, size in known) / sum(size for _, size in known)) if known else ""


def _scales(layers: Sequence[LayerReport]) -> str:
    """Name what shares a scale: "channel", "block 8", or "block 3 to 8" for layers with different blocks."""
    parts = dict.fromkeys(part for layer in layers for part in layer.granularity.split(" and "))  # of two weights
    sizes = sorted(int(part.split()[-1]) for part in parts if part.startswith("block"))
    blocks = f"block {sizes[0]}{f' to {sizes[-1]}' if len(sizes) > 1 else ''}" if sizes else ""
    others = [part for part in parts if not part.startswith("block")]
    return ", ".join(filter(None, (*others, blocks)))
