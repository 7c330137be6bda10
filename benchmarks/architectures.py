"""Whole networks of many kinds with every recipe: loss of quality, speed, and layers that stay in float.

    python -m benchmarks.architectures                                    all of them, at 224 pixels
    python -m benchmarks.architectures mobilenet_v3 vit --recipes int8    some of them
    python -m benchmarks.architectures --markdown docs/architectures.md   the table as a page, too
    python -m benchmarks.architectures shufflenet --static                files of onnxruntime's quantize_static, too

Weights are random. SQNR is that of the outputs on images that did not calibrate. Speed is relative to float on one
thread, in the least processor time of runs of all files of a network in turns. The exit code is 1 if a network is
refused, if a file is slower than float, or if a file of 8-bit weights and activations (W8A8) is below 20 dB and no
layer can be named that lowers it. If one can be named, the last line names it.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import onnx
from rich.table import Table

from benchmarks.deployment import runtime_operators
from benchmarks.random_resnet import random_images, random_network
from benchmarks.shared_data import IMAGENET_SIZE
from benchmarks.side_by_side import processor_speedups
from benchmarks.static_quantization import static_files
from converter import convert
from converter.comparison.compare import compare
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import prepare_output, save_onnx
from converter.model_io.structure import model_bytes
from converter.pipeline.result import Result
from converter.recipes.builtin import RECIPES
from converter.report.table import plain_table, show
from passes.errors import ConvertError

__all__ = ["ARCHITECTURES", "LEAST_DB", "Row", "main", "page", "rows"]

ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "resnet18": "resnet.py:resnet18",
        "mobilenet_v2": "mobilenet.py:mobilenet_v2",
        "mobilenet_v3": "mobilenet_v3.py:mobilenet_v3_large",
        "efficientnet_lite0": "efficientnet_lite.py:efficientnet_lite0",
        "convnext": "convnext.py:convnext_atto",
        "vit": "vit.py:vit_tiny",
        "densenet": "densenet.py:densenet121",
        "googlenet": "googlenet.py:googlenet",
        "unet": "unet.py:unet",
        "detector": "detector.py:detector_nano",
        "shufflenet": "shufflenet.py:shufflenet_v2",
        "regnet": "regnet.py:regnet_x_400mf",
    }
)
LEAST_DB = 20.0
_W8A8 = frozenset({"int8", "int8-gptq"})
_CALIBRATE, _EVALUATE = 16, 8
_EQUAL = 0.98  # weight-only files are float files once they are loaded; two runs of such files differ by 2 %
_QUIET = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "Shape", "Gather"})
_INTEGER = frozenset({"MatMulIntegerToFloat", "NhwcMaxPool", "MaxPool", "Resize", "ReorderInput", "ReorderOutput"})


@dataclass(frozen=True)
class Row:
    """Results of one file.

    Attributes:
        network: Name of the network.
        recipe: Name of the recipe.
        sqnr_db: SQNR of the outputs against float.
        smaller: Bytes of the float file divided by those of this file.
        speedup: Speed relative to float.
        lowest: If the SQNR is below 20 dB, the layer that lowers it most, and the SQNR that its error alone gives.
        floats: Number of nodes that onnxruntime computes in float, by operator.
        left: Number of linear layers that are not quantized, by reason.
    """

    network: str
    recipe: str
    sqnr_db: float
    smaller: float
    speedup: float
    lowest: str
    floats: Mapping[str, int]
    left: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether the file is as fast as float, and either accurate enough for W8A8 or its worst layer is named.

        Files of quantize_static are for comparison, so they always hold.
        """
        if self.recipe not in RECIPES:
            return True
        return self.speedup >= _EQUAL and (not self.is_low or bool(self.lowest))

    @property
    def is_low(self) -> bool:
        """Whether the file is W8A8 and has an SQNR below 20 dB."""
        return self.recipe in _W8A8 and self.sqnr_db < LEAST_DB


def rows(
    name: str, model: onnx.ModelProto, recipes: Iterable[str], size: int, *, static: bool = False
) -> Iterator[Row]:
    """Measure a network with every recipe, and with every form of quantize_static if ``static``.

    Raises:
        ConvertError: The network is refused.
    """
    calibration = random_images(_CALIBRATE, size)
    data = load_data(random_images(_EVALUATE, size, seed=5), input_specs(model))
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        files = {"float": Path(folder) / "float.onnx"}
        save_onnx(model, files["float"])
        results: dict[str, Result] = {}
        for recipe in recipes:
            results[recipe] = convert(model, calibration, recipe=recipe)
            files[recipe] = Path(folder) / f"{recipe}.onnx"
            results[recipe].save(files[recipe])
        if static:
            files |= static_files(files["float"], calibration, Path(folder))
        measured = evaluate(list(files.values()), data, latency=False).models
        faster = processor_speedups(files, {"input": random_images(1, size)})
        for (recipe, path), result in zip(list(files.items())[1:], measured[1:], strict=True):
            sqnr = result.sqnr_db or 0.0
            lowest = ""
            if sqnr < LEAST_DB and recipe in results:
                layers = compare(files["float"], path, data).layers
                worst = min(layers, key=lambda layer: layer.introduced_db, default=None)
                lowest = "" if worst is None else f"{worst.layer} {worst.introduced_db:.1f} dB"
            yield Row(
                name,
                recipe,
                sqnr,
                model_bytes(files["float"]) / model_bytes(path),
                faster[recipe],
                lowest,
                _floats(runtime_operators(path)),
                Counter(layer.reason for layer in results[recipe].layers if layer.reason) if recipe in results else {},
            )


def _floats(operators: Mapping[str, int]) -> dict[str, int]:
    """Return the operators that compute floats, without those that only move them."""
    return {
        op: count
        for op, count in sorted(operators.items())
        if not op.startswith("Q") and op not in _QUIET | _INTEGER and op != "DequantizeLinear"
    }


def table(rows: Sequence[Row]) -> Table:
    """Build the table, one row for each file."""
    columns = ["network", "recipe", "SQNR", "smaller", "faster", "stays float"]
    shown = plain_table("", columns, numbers={2, 3, 4})
    for row in rows:
        shown.add_row(*_cells(row))
    return shown


def page(rows: Sequence[Row], refused: Mapping[str, str], size: int) -> str:
    """Write the table as Markdown, with the reasons why networks were refused."""
    lines = [
        "# Architectures",
        "",
        f"Written by `python -m benchmarks.architectures`: random weights, {size} pixels. SQNR of the outputs on",
        f"{_EVALUATE} images that did not calibrate, size and speed (one thread, batch 1, all files of a network in",
        "turns) over float. *Stays float*: what onnxruntime does not compute on integers, layers that are not",
        "quantized and why, and below 20 dB the layer that lowers the SQNR most, with what its error alone leaves.",
        "",
        "| network | recipe | SQNR | smaller | faster | stays float |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows),
        "",
        *_summary(rows, refused),
    ]
    lines += [f"- {name}: {reason}" for name, reason in refused.items()]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    left = [f"{count} layers: {why}" for why, count in row.left.items()]
    floats = [", ".join(f"{count} {op}" for op, count in row.floats.items())] if row.recipe in _ON_INTEGERS else []
    notes = "; ".join([*filter(None, floats), *left, *([f"lowest: {row.lowest}"] if row.lowest else [])])
    verdict = "" if row.holds else " !"
    figures = (f"{row.sqnr_db:.1f} dB", f"{row.smaller:.1f}x", f"{row.speedup:.2f}x{verdict}")
    return (row.network, row.recipe, *figures, notes or "–")


def _summary(rows: Sequence[Row], refused: Mapping[str, str]) -> list[str]:
    """Count the files that hold, and name those below 20 dB with their worst layers."""
    lines = [f"{sum(row.holds for row in rows)} of {len(rows)} files hold, {len(refused)} networks refused"]
    low = [f"{row.network} {row.recipe} ({row.lowest or 'no layer named'})" for row in rows if row.is_low]
    return [*lines, *([f"W8A8 below {LEAST_DB:g} dB: {', '.join(low)}"] if low else [])]


_ON_INTEGERS = frozenset({"int8", "int8-gptq", "int4", "int2-learned", "int4-qat"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the given networks. The result is 1 if a file does not hold or a network is refused."""
    parser = argparse.ArgumentParser(prog="benchmarks.architectures", description="Whole networks, every recipe.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ARCHITECTURES)}; default all")
    parser.add_argument("--recipes", default="int8,int4", help=f"of {','.join(RECIPES)}, or all; default int8,int4")
    parser.add_argument("--size", type=int, default=IMAGENET_SIZE, help="of the images, in pixels")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="also write the table as a page")
    parser.add_argument("--static", action="store_true", help="also files of quantize_static, in four forms")
    options = parser.parse_args(arguments)
    if options.size % 32:
        parser.error(
            f"--size must be a multiple of 32, which U-Net and the detector halve five times, not {options.size}"
        )
    every = [name for name, recipe in RECIPES.items() if not recipe.keeps]
    recipes = every if options.recipes == "all" else options.recipes.split(",")
    for given, known in ((options.names, ARCHITECTURES), (recipes, RECIPES)):
        for name in given:
            if name not in known:
                parser.error(f"there is no {name!r}; there are: {', '.join(known)}")
    if options.markdown is not None:
        try:
            prepare_output(options.markdown)
        except ConvertError as error:
            parser.error(f"--markdown {error}")
    measured: list[Row] = []
    refused: dict[str, str] = {}
    for name in options.names or ARCHITECTURES:
        factory = ARCHITECTURES[name]
        if name == "vit":
            factory += f"(image={options.size})"
        try:
            model = random_network(factory, options.size, shift=1.0)
            measure = partial(rows, static=True) if options.static else rows
            network = list(measure(name, model, recipes, options.size))
        except ConvertError as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused[name] = str(error)
            continue
        show([table(network)])
        measured += network
    print(*_summary(measured, refused), sep="\n")
    if options.markdown is not None:
        options.markdown.write_text(page(measured, refused, options.size), encoding="utf-8")
    return 0 if all(row.holds for row in measured) and not refused else 1


if __name__ == "__main__":
    sys.exit(main())
