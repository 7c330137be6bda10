"""ONNX files that Python packages ship: converted by each recipe, and beside onnxruntime's quantize_static.

    python -m benchmarks.shipped                              all files, int8
    python -m benchmarks.shipped ppocr-det magika --recipes int8 int4
    python -m benchmarks.shipped build/models/*.onnx          files on the disk that take one image
    python -m benchmarks.shipped --targets cpu cpu-avx2       for several targets

SQNR is that of the worst float output on inputs that did not calibrate. Speed is relative to float, on one thread, with
all files in turns. The exit code is 1 if a file is refused, if int8 has a lower SQNR than quantize_static (by more than
half a dB), is slower than float (by more than 5 %), or slower than quantize_static (by more than 5 %).
"""

import argparse
import itertools
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.shipped.files import FILES, Feeds, ShippedFile, fetch, image_model
from converter import convert
from converter.model_io.structure import model_bytes
from converter.report.table import plain_table, show
from converter.runtime.latency import interleaved_times
from converter.runtime.output_errors import output_errors
from converter.runtime.runner import Runner
from converter.targets.catalog import DEFAULT_TARGET
from passes.errors import ConvertError

__all__ = ["Row", "main", "measured", "static_file"]

_CALIBRATION, _MEASURED = 32, 16
_STATIC = "quantize_static"
_HALF_DB, _SLOWER = 0.5, 0.95


@dataclass(frozen=True)
class Row:
    """One quantized file.

    Attributes:
        name: Name of the model.
        recipe: Recipe, or "quantize_static".
        bytes: Size relative to the float file.
        sqnr_db: SQNR of the worst float output.
        speed: Speed relative to float.
        refused: Message of the refusal. Empty if the file was written.
    """

    name: str
    recipe: str
    bytes: float
    sqnr_db: float
    speed: float
    refused: str = ""


def measured(file: ShippedFile, recipes: Sequence[str], targets: Sequence[str] = (DEFAULT_TARGET,)) -> Iterator[Row]:
    """Convert a file by each recipe for each target and by quantize_static, and measure all of them side by side."""
    model = fetch(file)
    fit, unseen = list(file.samples(_CALIBRATION, 0)), list(file.samples(_MEASURED, 1))
    with tempfile.TemporaryDirectory() as temporary:
        paths: dict[str, Path] = {"float": model}
        for recipe, target in itertools.product(recipes, targets):
            name = recipe if target == DEFAULT_TARGET else f"{recipe} {target}"
            path = Path(temporary) / f"{name}.onnx"
            try:
                convert(model, lambda: iter(fit), recipe=recipe, target=target).save(path)
                paths[name] = path
            except ConvertError as error:
                yield Row(file.name, name, 0, 0, 0, f"{type(error).__name__}: {error}")
        try:
            paths[_STATIC] = static_file(model, fit, Path(temporary))
        except Exception as error:  # whatever onnxruntime raises is its result
            yield Row(file.name, _STATIC, 0, 0, 0, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        yield from _side_by_side(file.name, paths, unseen)


def _side_by_side(name: str, paths: Mapping[str, Path], feeds: Sequence[Feeds]) -> Iterator[Row]:
    runners = {recipe: Runner(path, recipe, threads=1) for recipe, path in paths.items()}
    outputs = {recipe: [runner.execute(runner.inputs(feed)) for feed in feeds] for recipe, runner in runners.items()}
    calls = [partial(runner.execute, runner.inputs(feeds[0])) for runner in runners.values()]
    quick = np.quantile(interleaved_times(calls, rounds=40, budget=20.0), 0.25, axis=0)
    names = runners["float"].outputs
    for place, recipe in enumerate(paths):
        if place:
            errors = output_errors(outputs["float"], outputs[recipe], names)
            size = model_bytes(paths[recipe]) / model_bytes(paths["float"])
            yield Row(name, recipe, size, min(errors.values()), float(quick[0] / quick[place]))


def static_file(model: Path, feeds: Sequence[Feeds], folder: Path) -> Path:
    """Write the file of onnxruntime's quantize_static: QDQ, uint8 activations, int8 weights.

    Scales are per channel, or per tensor where onnxruntime cannot load the file, as for opsets before 13.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Reads one sample after the other."""

        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feeds | None:
            """Return the next sample."""
            return next(self.left, None)

    prepared, written = folder / "prepared.onnx", folder / "static.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    for per_channel in (True, False):
        quantize_static(
            str(prepared),
            str(written),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        try:
            Runner(written, _STATIC).execute(dict(feeds[0]))
        except ConvertError:
            if not per_channel:
                raise
        else:
            break
    return written


def _misses(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the bars that the rows of one model miss."""
    static = next((row for row in rows if row.recipe == _STATIC and not row.refused), None)
    for row in rows:
        if row.recipe == _STATIC:
            continue
        if row.refused:
            yield f"{row.name} {row.recipe}: refused: {row.refused}"
            continue
        if row.speed < _SLOWER:
            yield f"{row.name} {row.recipe}: {row.speed:.2f} of float's speed"
        if row.recipe != "int8" or static is None:
            continue
        if static.sqnr_db < math.inf and row.sqnr_db < static.sqnr_db - _HALF_DB:  # inf: it quantizes nothing
            yield f"{row.name} {row.recipe}: {row.sqnr_db:.1f} dB, quantize_static has {static.sqnr_db:.1f} dB"
        if row.speed < _SLOWER * static.speed:
            yield f"{row.name} {row.recipe}: {row.speed / static.speed:.2f} of quantize_static's speed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the files, print a table and the bars that were missed."""
    known = {file.name: file for file in FILES}
    parser = argparse.ArgumentParser(prog="benchmarks.shipped", description="Convert files that packages ship.")
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(known)}, or a path; default: all")
    parser.add_argument("--recipes", nargs="+", default=["int8"], metavar="RECIPE", help="default: int8")
    parser.add_argument("--targets", nargs="+", default=[DEFAULT_TARGET], metavar="TARGET", help="default: cpu")
    options = parser.parse_args(arguments)
    known |= {name: image_model(Path(name)) for name in options.files if name.endswith(".onnx")}
    unknown = [name for name in options.files if name not in known]
    if unknown:
        parser.error(f"{unknown[0]}: no such file; there are: {', '.join(known)}")
    logging.getLogger().setLevel(logging.ERROR)
    table = plain_table("", ("file", "recipe", "size", "SQNR", "speed", "refused"), (2, 3, 4))
    missed: list[str] = []
    for name in options.files or [file.name for file in FILES]:
        rows = list(measured(known[name], options.recipes, options.targets))
        for row in rows:
            figures = ("", "", "") if row.refused else (f"{row.bytes:.2f}", f"{row.sqnr_db:.1f}", f"{row.speed:.2f}")
            print(row.name, row.recipe, *figures, row.refused, flush=True)
            table.add_row(row.name, row.recipe, *figures, row.refused)
        missed += _misses(rows)
    show([table])
    for line in missed:
        print(f"missed: {line}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
