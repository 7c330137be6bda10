"""The road-sign study again: ResNet-18 on 43 German road signs, every method by this tool, and what each part is worth.

    python -m benchmarks.road_signs                      the table, then the ablation
    python -m benchmarks.road_signs --json FILE

The study brought methods for language models to a CNN and got a small file or a fast one; GPTQ fell to 63 % and AWQ to
75 %. The ablation takes one part of GPTQ away at a time, then all of them at once.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from rich import box
from rich.table import Table

from benchmarks.shared_data import ROAD_SIGNS, MissingData
from converter import ConvertError, Recipe, convert, find_recipe
from converter.data import Dataset
from converter.evaluate import Measurement, evaluate
from converter.recipe import Pass
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime import Progress
from converter.save import save_onnx
from passes.activation_ranges import ActivationRanges
from passes.gptq import Gptq
from passes.rtn import Rtn

__all__ = ["METHODS", "PARTS", "Row", "ablation", "main", "methods", "without"]

CALIBRATE = 512
ABLATED_BITS = (4, 2)


@dataclass(frozen=True)
class Row:
    """One file: what made it, its accuracy in percent on how many images, its size and speed."""

    method: str
    bits: int
    top1: float
    error: float
    images: int
    bytes: int
    faster: float | None
    seconds: float


def with_gptq(recipe: Recipe, name: str, **fields: Any) -> Recipe:
    """The recipe with other fields for its GPTQ pass."""
    steps = tuple(replace(step, **fields) if isinstance(step, Gptq) else step for step in recipe.passes)
    return replace(recipe, name=name, passes=steps)


def with_steps(recipe: Recipe, name: str, replacement: Mapping[type, Pass]) -> Recipe:
    """The recipe with passes replaced by type."""
    steps = tuple(replacement.get(type(step), step) for step in recipe.passes)
    return replace(recipe, name=name, passes=steps)


METHODS: Mapping[str, tuple[int, Recipe]] = MappingProxyType(
    {
        "round to nearest, W8A8": (8, find_recipe("int8")),
        "round to nearest, W4A8": (4, with_steps(find_recipe("int4"), "rtn4", {Gptq: Rtn(bits=4)})),
        "GPTQ, W4A8": (4, find_recipe("int4")),
        "GPTQ, W3A8": (3, with_gptq(find_recipe("int4"), "gptq3", bits=3)),
        "GPTQ, W2A8": (2, with_gptq(find_recipe("int4"), "gptq2", bits=2)),
    }
)

PARTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sequential": {"sequential": False, "asymmetric_target": False},
        "asymmetric target": {"asymmetric_target": False},
        "scale search": {"scale": "absmax"},
        "act-order": {"act_order": False},
        "bias correction": {"bias_correction": False},
        "refinement": {"refine": 0},
    }
)


def without(part: str, bits: int) -> Recipe:
    """`int4` at other bits without one part of `PARTS`, without searched activation ranges, or without all of them."""
    whole = with_gptq(find_recipe("int4"), f"{bits} bits", bits=bits)
    if part == "nothing":
        return whole
    fields: dict[str, Any] = dict(PARTS.get(part, {}))
    if part == "everything":
        for each in PARTS.values():
            fields |= each
    recipe = with_gptq(whole, f"{bits} bits without {part}", **fields)
    if part in {"activation ranges", "everything"}:
        recipe = with_steps(recipe, recipe.name, {ActivationRanges: ActivationRanges(method="minmax")})
    return recipe


def methods(model: onnx.ModelProto, calibration: Dataset, evaluation: Dataset, progress: Progress) -> list[Row]:
    """Every method of `METHODS`, and float, measured side by side with interleaved latency."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        seconds = [0.0]
        for name, (_, recipe) in METHODS.items():
            result = convert(model, calibration, recipe=recipe, limit=len(calibration), progress=progress)
            paths.append(Path(folder) / f"{len(paths)} {name}.onnx")
            result.save(paths[-1])
            seconds.append(result.seconds)
        measured = evaluate(paths, evaluation, progress=progress).models
    names, bits = ["float", *METHODS], [32, *(bits for bits, _ in METHODS.values())]
    base = measured[0].latency_ms
    rows = []
    for name, width, one, took in zip(names, bits, measured, seconds, strict=True):
        faster = base / one.latency_ms if base and one.latency_ms else None
        rows.append(_row(name, width, one, took, faster))
    return rows


def ablation(
    model: onnx.ModelProto, calibration: Dataset, evaluation: Dataset, progress: Progress, bits: Sequence[int]
) -> Iterator[Row]:
    """GPTQ whole, then without each of its parts, then without all of them, at every number of bits."""
    for width in bits:
        for part in ("nothing", *PARTS, "activation ranges", "everything"):
            recipe = without(part, width)
            result = convert(model, calibration, recipe=recipe, limit=len(calibration), progress=progress)
            with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
                path = Path(folder) / "ablated.onnx"
                result.save(path)
                measured = evaluate([path], evaluation, latency=False, progress=progress).models[0]
            yield _row(part, width, measured, result.seconds, None)


def _row(method: str, bits: int, measured: Measurement, seconds: float, faster: float | None) -> Row:
    if measured.top1 is None:
        raise ValueError(f"{measured.model}: the data have no labels")
    error = 100 * (measured.top1_error or 0.0)
    return Row(method, bits, 100 * measured.top1, error, measured.images, measured.bytes, faster, seconds)


def method_table(rows: Sequence[Row]) -> Table:
    """One line a file."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("method", "top-1", "size", "", "latency", "conversion"):
        table.add_column(column, justify="left" if column == "method" else "right")
    whole = rows[0].bytes
    for row in rows:
        faster = "" if row.faster is None or row.bits == 32 else f"{row.faster:.2f}x faster"
        smaller = "" if row.bits == 32 else f"{whole / row.bytes:.1f}x smaller"
        took = "" if row.bits == 32 else f"{row.seconds:.0f} s"
        table.add_row(row.method, f"{row.top1:.2f} %", f"{row.bytes / 1e6:.2f} MB", smaller, faster, took)
    return table


def ablation_table(rows: Sequence[Row]) -> Table:
    """One line a part, one column a number of bits."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    widths = sorted({row.bits for row in rows}, reverse=True)
    table.add_column("GPTQ without")
    for width in widths:
        table.add_column(f"W{width}A8", justify="right")
    found = {(row.method, row.bits): row.top1 for row in rows}
    for part in dict.fromkeys(row.method for row in rows):
        table.add_row(part, *(f"{found[part, width]:.2f} %" for width in widths))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; 1 if the data are not there."""
    parser = argparse.ArgumentParser(prog="benchmarks.road_signs", description="The road-sign study, by this tool.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--bits", type=int, nargs="+", default=list(ABLATED_BITS), help="of the ablation")
    options = parser.parse_args(arguments)
    try:
        model = ROAD_SIGNS.model()
        calibration, evaluation = ROAD_SIGNS.images(model, CALIBRATE)
        with progress_bars() as progress:
            table = methods(model, calibration, evaluation, progress)
        show([method_table(table)])
        with progress_bars() as progress:
            parts = list(ablation(model, calibration, evaluation, progress, options.bits))
        show([ablation_table(parts)])
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{len(evaluation):,} images, binomial error ±{table[0].error:.2f} points; {CALIBRATE} others calibrated")
    if options.json is not None:
        content = {"methods": [asdict(row) for row in table], "ablation": [asdict(row) for row in parts]}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
