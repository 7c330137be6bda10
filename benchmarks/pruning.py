"""Pruning: half of the weights removed, by Optimal Brain Surgeon and by magnitude, and what general compression saves.

    python -m benchmarks.pruning                                  every network, every method
    python -m benchmarks.pruning --networks ResNet-20 --json FILE
    python -m benchmarks.pruning --methods OBS                    rows whose names begin with this

512 images calibrate. Rows that say "trained" learn from the float network in four epochs, on up to 2,048 images without
labels, and zeros stay zero. Top-1 accuracy and SQNR are measured on others. Every file is written as it is, compressed
as ZIP does (deflate), and by xz. Runtimes load none of the compressed files: packages and app stores compress and
unpack them. Zstandard is measured too where Python has it (3.14).

Magnitude pruning takes the smallest weights of a layer. "zeros only" is what is usually done: the weights become zero
and GPTQ rounds the others. In "magnitude", the others make up for the zeros first, as in OBS, so only the choice of the
weights differs.
"""

import argparse
import importlib
import json
import lzma
import math
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.shared_data import RESNET20, RESNET56, ROAD_SIGNS, MissingData, Pretrained
from converter import ConvertError, Recipe, Settings, convert, find_recipe, train
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import Progress
from passes.weights.qat import Qat

__all__ = ["COMPRESSIONS", "METHODS", "NETWORKS", "Row", "compressed", "main", "measured", "table"]

CALIBRATE, TRAIN = 512, 2048

NETWORKS: Mapping[str, tuple[Pretrained, float | None]] = MappingProxyType(
    # name: network, and the most points that it may lose
    {"ResNet-20": (RESNET20, None), "ResNet-56": (RESNET56, 0.5), "ResNet-18, road signs": (ROAD_SIGNS, 0.5)}
)


def _by_magnitude(recipe: str, *, make_up: bool) -> Recipe:
    name = "magnitude" if make_up else "zeros-only"
    return replace(find_recipe(recipe).with_solver(method="magnitude", make_up=make_up), name=f"{recipe}-{name}")


def _trained(recipe: str) -> Recipe:
    found = find_recipe(recipe)
    training = Qat(epochs=4, objective="float", shift=2)
    return replace(found, name=f"{recipe}-trained", passes=(*found.passes, training))


METHODS: Mapping[str, tuple[Recipe, bool]] = MappingProxyType(
    {
        # name: recipe, whether it has to stay near float
        "no pruning, 4 bits": (find_recipe("int4"), False),
        "OBS 50 %, 4 bits": (find_recipe("int4-pruned"), True),
        "OBS 50 %, 4 bits, trained": (_trained("int4-pruned"), False),
        "magnitude 50 %, 4 bits": (_by_magnitude("int4-pruned", make_up=True), False),
        "zeros only 50 %, 4 bits": (_by_magnitude("int4-pruned", make_up=False), False),
        "no pruning, 8 bits": (find_recipe("int8-gptq"), False),
        "OBS 2:4, 8 bits": (find_recipe("int8-2of4"), True),
        "OBS 2:4, 8 bits, trained": (_trained("int8-2of4"), True),
        "magnitude 2:4, 8 bits": (_by_magnitude("int8-2of4", make_up=True), False),
        "zeros only 2:4, 8 bits": (_by_magnitude("int8-2of4", make_up=False), False),
    }
)


@dataclass(frozen=True)
class Row:
    """Results of one file.

    Attributes:
        network: Name of the network.
        method: Name of the method, or "float".
        top1: Top-1 accuracy in percent.
        lost: Points below float.
        error: Standard error of `top1` in points.
        images: Number of images that measured it.
        sqnr_db: SQNR of the scores in dB. None for float.
        zeros: Share of all weights of convolutions and matrix products that are zero.
        bytes: Bytes of the file.
        compressed: Bytes of the compressed file, by compression.
        seconds: Seconds of the conversion.
        limit: Most points that may be lost. None: there is no bar.
    """

    network: str
    method: str
    top1: float
    lost: float
    error: float
    images: int
    sqnr_db: float | None
    zeros: float
    bytes: int
    compressed: Mapping[str, int]
    seconds: float
    limit: float | None


def _compressions() -> dict[str, Callable[[bytes], int]]:
    found: dict[str, Callable[[bytes], int]] = {
        "zip": lambda data: len(zlib.compress(data, 9)),
        "xz": lambda data: len(lzma.compress(data, preset=9)),
    }
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ModuleNotFoundError:
        return found
    return found | {"zstd": lambda data: len(zstd.compress(data, 19))}


COMPRESSIONS = _compressions()


def compressed(data: bytes) -> dict[str, int]:
    """Return the bytes that are left of a file by each compression of this Python."""
    return {name: size(data) for name, size in COMPRESSIONS.items()}


def measured(network: str, methods: Sequence[str], progress: Progress) -> list[Row]:
    """Convert a network by every method and measure the files. The float model comes first.

    Raises:
        MissingData: The network or its images are not on this machine.
    """
    pretrained, limit = NETWORKS[network]
    model = pretrained.model()
    calibration, evaluation = pretrained.images(model, CALIBRATE)
    seconds, zeros = [0.0], [0.0]
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        for name in methods:
            recipe = METHODS[name][0]
            common: dict[str, Any] = {"settings": Settings(limit=CALIBRATE), "progress": progress}
            if any(step.trains for step in recipe.passes):
                training = pretrained.images(model, TRAIN)[0]
                result = train(model, training, recipe=recipe, calibration=calibration, **common)
            else:
                result = convert(model, calibration, recipe=recipe, **common)
            paths.append(Path(folder) / f"{len(paths)}.onnx")
            result.save(paths[-1])
            seconds.append(result.seconds)
            counted = [(layer.zeros or 0.0, layer.shape) for layer in result.layers]
            zeros.append(_mean(counted))
        models = evaluate(paths, evaluation, latency=False, progress=progress).models
        sizes = [compressed(path.read_bytes()) for path in paths]
    base = 100 * (models[0].top1 or 0.0)
    return [
        Row(
            network,
            name,
            100 * (each.top1 or 0.0),
            base - 100 * (each.top1 or 0.0),
            100 * (each.top1_error or 0.0),
            each.images,
            None if name == "float" else each.sqnr_db,
            share,
            each.bytes,
            size,
            took,
            limit if name != "float" and METHODS[name][1] else None,
        )
        for name, each, share, size, took in zip(("float", *methods), models, zeros, sizes, seconds, strict=True)
    ]


def _mean(counted: Sequence[tuple[float, tuple[int, ...]]]) -> float:
    """Return the mean share over all weights of layers of these shapes."""
    sizes = [math.prod(shape) for _, shape in counted]
    return sum(share * size for (share, _), size in zip(counted, sizes, strict=True)) / max(sum(sizes), 1)


def table(rows: Sequence[Row]) -> Table:
    """Build a table with one row for each file of a network."""
    built = Table(title=rows[0].network, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title_justify="left")
    for column in ("method", "top-1", "lost", "SQNR", "zeros", "file", *COMPRESSIONS, "bar"):
        built.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        bar = "" if row.limit is None else "holds" if row.lost <= row.limit + 1e-9 else "missed"
        built.add_row(
            row.method,
            f"{row.top1:.2f} %",
            "" if row.sqnr_db is None else f"{row.lost:.2f}",
            "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
            f"{100 * row.zeros:.1f} %" if row.zeros else "",
            *(f"{size / 1e6:.3f} MB" for size in (row.bytes, *(row.compressed[name] for name in COMPRESSIONS))),
            bar,
        )
    built.caption = (
        f"{rows[0].images:,} images, binomial error ±{rows[0].error:.2f} points; {CALIBRATE} others calibrated"
    )
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each network. The result is 1 if a bar is missed or data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.pruning", description="Pruning, measured.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=[""], metavar="NAME", help="rows that begin with this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    for name in options.methods:
        if not any(each.startswith(name) for each in METHODS):
            parser.error(f"no row begins with {name!r}; there are: {', '.join(METHODS)}")
    wanted = [name for name in METHODS if name.startswith(tuple(options.methods))]
    rows: list[Row] = []
    for network in options.networks:
        try:
            with progress_bars() as progress:
                found = measured(network, wanted, progress)
        except (ConvertError, MissingData) as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        show([table(found)])
        rows += found
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return 1 if any(row.limit is not None and row.lost > row.limit + 1e-9 for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
