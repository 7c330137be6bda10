"""Road-sign study, repeated with this tool: ResNet-18 on 43 German road signs, every method, and an ablation of GPTQ.

    python -m benchmarks.road_signs                      the table, the ablation, then the shortcuts
    python -m benchmarks.road_signs table --json FILE
    python -m benchmarks.road_signs table --methods GPTQ QAT      rows whose names begin with these
    python -m benchmarks.road_signs ablation --bits 4 2 --without sequential everything
    python -m benchmarks.road_signs shortcuts            plain rounding, in ever simpler forms
    python -m benchmarks.road_sign_figures               the plots

The original study applied methods for language models to a CNN. Its files were either small or fast, and top-1 accuracy
was 63 % with GPTQ and 75 % with AWQ. The ablation removes one part of GPTQ at a time, then all of them at once.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from rich import box
from rich.table import Table

from benchmarks.budgets import CACHE, ROAD_SIGN_IMAGES
from benchmarks.low_bits import with_gptq
from benchmarks.shared_data import ROAD_SIGNS, MissingData
from benchmarks.shortcuts import SHORTCUTS, rounded
from converter import Budget, ConvertError, Recipe, Result, Settings, convert, convert_within, find_recipe, train
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import Progress
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Pass
from passes.scale_migration.awq import Awq
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.rtn import Rtn

__all__ = [
    "AUTO",
    "AWQ_GRID",
    "METHODS",
    "PARTS",
    "TRAINED",
    "Row",
    "ablation",
    "main",
    "methods",
    "shortcuts",
    "without",
]

CALIBRATE = 512
ABLATED_BITS = (4, 2)
SHORTCUT_BITS = (4, 3)
_PARTS_OF_THE_STUDY = ("table", "ablation", "shortcuts")
_NOTHING, _RANGES, _EVERYTHING = "nothing", "activation ranges", "everything"


@dataclass(frozen=True)
class Row:
    """Results of one file.

    Attributes:
        method: Name of the method.
        bits: Bits of the weights.
        top1: Top-1 accuracy in percent.
        error: Standard error of `top1` in points.
        images: Number of images.
        sqnr_db: SQNR of the scores in dB.
        bytes: Bytes of the file.
        faster: Speed relative to float, or None if it was not measured.
        seconds: Seconds of the conversion.
    """

    method: str
    bits: int
    top1: float
    error: float
    images: int
    sqnr_db: float | None
    bytes: int
    faster: float | None
    seconds: float


def with_steps(recipe: Recipe, name: str, replacement: Mapping[type, Pass]) -> Recipe:
    """Return the recipe with passes replaced by type."""
    steps = tuple(replacement.get(type(step), step) for step in recipe.passes)
    return replace(recipe, name=name, passes=steps)


def before_ranges(recipe: Recipe, name: str, added: Pass) -> Recipe:
    """Return the recipe with another pass before its activation ranges."""
    return recipe.with_pass(added, name)


AWQ_GRID = Awq(factors=(1.0, 1.25, 1.5, 2.0, 3.0))
"""AWQ with the study's grid: α, and a factor for the salient 1 % of the channels."""

_ONE_LEVEL: Mapping[str, Any] = MappingProxyType({"block_size": None, "two_level": False})
_INT4 = find_recipe("int4")
_GPTQ4 = with_gptq(_INT4, "gptq4-channel", **_ONE_LEVEL)
_RTN4 = with_steps(_INT4, "rtn4", {Gptq: Rtn(bits=4)})

METHODS: Mapping[str, tuple[int, Recipe]] = MappingProxyType(
    {
        "round to nearest, W8A8": (8, find_recipe("int8")),
        "SmoothQuant, W8A8": (8, before_ranges(find_recipe("int8"), "smooth8", SmoothQuant())),
        "round to nearest, W4A8": (4, _RTN4),
        "AWQ, W4A8": (4, before_ranges(_RTN4, "awq4", Awq(factors=(1.0,)))),
        "AWQ with salient weights, W4A8": (4, before_ranges(_RTN4, "awq4-salient", AWQ_GRID)),
        "AWQ and GPTQ, W4A8": (
            4,
            before_ranges(_GPTQ4, "awq-gptq4", Awq(factors=(1.0,))),
        ),
        "GPTQ, W4A8": (4, _INT4),
        "GPTQ with a scale a channel, W4A8": (4, _GPTQ4),
        "learned rounding, W4A8": (4, replace(_INT4, name="learned4", passes=(*_INT4.passes, LearnedRounding()))),
        "GPTQ, W3A8": (3, with_gptq(_INT4, "gptq3", bits=3)),
        "round to nearest, W2A8": (2, with_steps(_INT4, "rtn2", {Gptq: Rtn(bits=2)})),
        "GPTQ with a scale a channel, W2A8": (2, with_gptq(_INT4, "gptq2-channel", bits=2, **_ONE_LEVEL)),
        "GPTQ, W2A8": (2, with_gptq(_INT4, "gptq2", bits=2)),
    }
)

TRAINED: Mapping[str, int] = MappingProxyType({"QAT, W4A8": 4, "QAT, W2A8": 2})
Maker = Callable[[], Result]
AUTO = "auto, --max-drop 0.5"
_TRAINING = 2048  # images, with labels
_QAT = MappingProxyType({"shift": 3, "epochs": 2})

PARTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sequential": {"sequential": False, "asymmetric_target": False},
        "asymmetric target": {"asymmetric_target": False},
        "two-level scales": _ONE_LEVEL,
        "scale search, two-level scales": {"scale": "absmax", **_ONE_LEVEL},
        "act-order": {"act_order": False},
        "bias correction": {"bias_correction": False},
        "refinement": {"refine": 0},
    }
)


def without(part: str, bits: int) -> Recipe:
    """Return `int4` at other bits without one of `PARTS`, without searched activation ranges, or without all."""
    whole = with_gptq(find_recipe("int4"), f"{bits} bits", bits=bits)
    if part == _NOTHING:
        return whole
    fields: dict[str, Any] = dict(PARTS.get(part, {}))
    if part == _EVERYTHING:
        for each in PARTS.values():
            fields |= each
    recipe = with_gptq(whole, f"{bits} bits without {part}", **fields)
    if part in {_RANGES, _EVERYTHING}:
        recipe = with_steps(recipe, recipe.name, {ActivationRanges: ActivationRanges(method="minmax")})
    return recipe


def methods(
    model: onnx.ModelProto,
    calibration: Dataset,
    training: Dataset,
    evaluation: Dataset,
    progress: Progress,
    wanted: Sequence[str] = ("",),
) -> list[Row]:
    """Measure the float model and the methods, side by side with interleaved latency.

    Args:
        model: The float model.
        calibration: Images for methods without training.
        training: Images for quantization-aware training (2,048 of them) and for `auto`, which judges its attempts by
            most of them. Measurements of `budget-road-signs` on the same images are reused.
        evaluation: Images that all methods are measured on.
        progress: Called during the conversions.
        wanted: Only methods whose names begin with one of these are measured.
    """
    count = len(calibration)
    makers: dict[tuple[str, int], Maker] = {
        (name, bits): partial(
            convert, model, calibration, recipe=recipe, settings=Settings(limit=count), progress=progress
        )
        for name, (bits, recipe) in METHODS.items()
    }
    for name, bits in TRAINED.items():
        recipe = with_gptq(find_recipe("int4-qat"), f"qat{bits}", bits=bits)
        data = training.limit(_TRAINING)
        makers[name, bits] = partial(train, model, data, recipe=recipe, qat=dict(_QAT), progress=progress)
    makers[AUTO, 0] = partial(
        convert_within,
        model,
        training,
        Budget(max_drop=0.5),
        settings=Settings(limit=count),
        cache=CACHE,
        progress=progress,
    )
    chosen = {key: maker for key, maker in makers.items() if key[0].startswith(tuple(wanted))}
    return _measured(model, chosen, evaluation, True, progress)


def ablation(
    model: onnx.ModelProto,
    calibration: Dataset,
    evaluation: Dataset,
    progress: Progress,
    bits: Sequence[int],
    parts: Sequence[str],
) -> list[Row]:
    """Measure GPTQ without each of the ``parts`` at every number of bits. The float model comes first."""
    makers: dict[tuple[str, int], Maker] = {
        (part, width): partial(
            convert,
            model,
            calibration,
            recipe=without(part, width),
            settings=Settings(limit=len(calibration)),
            progress=progress,
        )
        for width in bits
        for part in parts
    }
    return _measured(model, makers, evaluation, False, progress)


def shortcuts(model: onnx.ModelProto, evaluation: Dataset, bits: Sequence[int]) -> list[Row]:
    """Measure weights rounded by each of `SHORTCUTS`, with float activations. Sizes are those of float files.

    The float model comes first.
    """
    variants = [(width, *kind) for width in bits for kind in SHORTCUTS]
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / f"{index}.onnx" for index in range(len(variants) + 1)]
        save_onnx(model, paths[0])
        for (width, _, scales, folded), path in zip(variants, paths[1:], strict=True):
            save_onnx(rounded(model, width, scales, folded=folded), path)
        reference, *measured = evaluate(paths, evaluation, latency=False).models
    rows = [_row(what, width, each, 0.0, None) for (width, what, _, _), each in zip(variants, measured, strict=True)]
    return [_row("float", 32, reference, 0.0, None), *rows]


def _measured(
    model: onnx.ModelProto,
    makers: Mapping[tuple[str, int], Maker],
    evaluation: Dataset,
    latency: bool,
    progress: Progress,
) -> list[Row]:
    """Return a row for the float model and one for every file. 0 bits in the key mean the bits of most weights."""
    names, seconds = [("float", 32)], [0.0]
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        for (name, bits), make in makers.items():
            result = make()
            paths.append(Path(folder) / f"{len(paths)}.onnx")
            result.save(paths[-1])
            names.append((name, bits or _most_common(result)))
            seconds.append(_took(result))
        measured = evaluate(paths, evaluation, latency=latency, progress=progress).models
    return [
        _row(name, width, one, took, measured[0].latency_ms)
        for (name, width), one, took in zip(names, measured, seconds, strict=True)
    ]


def _took(result: Result) -> float:
    """Return the seconds of the conversion, or of all attempts of a search, including those from the cache.

    The time of a search for measuring the effects of single layers is not included.
    """
    return result.seconds if result.search is None else sum(attempt.seconds for attempt in result.search.attempts)


def _most_common(result: Result) -> int:
    """Return the bits that most weights have."""
    weights = Counter[int]()
    for layer in result.layers:
        weights[layer.bits] += math.prod(layer.shape)
    return weights.most_common(1)[0][0]


def _row(method: str, bits: int, measured: Measurement, seconds: float, base: float | None) -> Row:
    if measured.top1 is None:
        raise ValueError(f"{measured.model}: the data have no labels")
    faster = base / measured.latency_ms if base and measured.latency_ms else None
    error = 100 * (measured.top1_error or 0.0)
    return Row(
        method, bits, 100 * measured.top1, error, measured.images, measured.sqnr_db, measured.bytes, faster, seconds
    )


def method_table(rows: Sequence[Row]) -> Table:
    """Build a table with one row for each file."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("method", "top-1", "SQNR", "size", "", "latency", "conversion"):
        table.add_column(column, justify="left" if column == "method" else "right")
    whole = rows[0].bytes
    for row in rows:
        faster = "" if row.faster is None or row.bits == 32 else f"{row.faster:.2f}x faster"
        smaller = "" if row.bits == 32 else f"{whole / row.bytes:.1f}x smaller"
        took = "" if row.bits == 32 else f"{row.seconds:.0f} s"
        top1, size = f"{row.top1:.2f} %", f"{row.bytes / 1e6:.2f} MB"
        table.add_row(row.method, top1, _decibels(row), size, smaller, faster, took)
    return table


def ablation_table(rows: Sequence[Row], title: str = "GPTQ without", activations: str = "A8") -> Table:
    """Build a table with one row for each part, and accuracy and SQNR of the scores for each number of bits."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    quantized = [row for row in rows if row.bits != 32]
    widths = sorted({row.bits for row in quantized}, reverse=True)
    table.add_column(title)
    for width in widths:
        table.add_column(f"W{width}{activations}", justify="right")
        table.add_column("SQNR", justify="right")
    by_key = {(row.method, row.bits): row for row in quantized}
    for part in dict.fromkeys(row.method for row in quantized):
        cells = [(f"{by_key[part, width].top1:.2f} %", _decibels(by_key[part, width])) for width in widths]
        table.add_row(part, *(text for cell in cells for text in cell))
    return table


def _decibels(row: Row) -> str:
    return "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the wanted parts of the study. The result is 1 if data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.road_signs", description="The road-sign study, by this tool.")
    parser.add_argument("parts", nargs="*", metavar="PART", help="of table, ablation, shortcuts; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--bits", type=int, nargs="+", help="of the ablation (4 2) and of the shortcuts (4 3)")
    parser.add_argument("--methods", nargs="+", default=[""], metavar="NAME", help="rows of the table; default all")
    parts = (_NOTHING, *PARTS, _RANGES, _EVERYTHING)
    parser.add_argument("--without", nargs="+", choices=parts, default=parts, help="of the ablation; default each")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in _PARTS_OF_THE_STUDY:
            parser.error(f"no part is named {part!r}; there are: {', '.join(_PARTS_OF_THE_STUDY)}")
    every = (*METHODS, *TRAINED, AUTO)
    for name in options.methods:
        if not any(each.startswith(name) for each in every):
            parser.error(f"no row begins with {name!r}; there are: {', '.join(every)}")
    wanted = options.parts or _PARTS_OF_THE_STUDY
    content: dict[str, Any] = {}
    try:
        model = ROAD_SIGNS.model()
        calibration, evaluation = ROAD_SIGNS.images(model, CALIBRATE)
        if "table" in wanted:
            training, _ = ROAD_SIGNS.images(model, ROAD_SIGN_IMAGES)
            with progress_bars() as progress:
                rows = methods(model, calibration, training, evaluation, progress, options.methods)
            show([method_table(rows)])
            print(_images(rows))
            content["methods"] = [asdict(row) for row in rows]
        if "ablation" in wanted:
            with progress_bars() as progress:
                rows = ablation(model, calibration, evaluation, progress, options.bits or ABLATED_BITS, options.without)
            show([ablation_table(rows)])
            print(_images(rows))
            content["ablation"] = [asdict(row) for row in rows]
        if "shortcuts" in wanted:
            rows = shortcuts(model, evaluation, options.bits or SHORTCUT_BITS)
            show([ablation_table(rows, "round to nearest, largest weight decides", "")])
            print(f"{rows[0].images:,} images, binomial error ±{rows[0].error:.2f} points; activations in float")
            content["shortcuts"] = [asdict(row) for row in rows]
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def _images(rows: Sequence[Row]) -> str:
    return f"{rows[0].images:,} images, binomial error ±{rows[0].error:.2f} points; {CALIBRATE} others calibrated"


if __name__ == "__main__":
    sys.exit(main())
