"""AIMET's AdaRound beside ours: the same network, images and bits, a scale a channel, activations in float.

    python -m benchmarks.peers.adaround                              ResNet-20 at 4, 3 and 2 bits
    python -m benchmarks.peers.adaround --bits 2 --iterations 2000

It checks the learned rounding of this project by another implementation of the paper (Nagel et al. 2020). Both start at
the float weights and round layer by layer. "Block by block" is BRECQ's reconstruction with the same rounding. AIMET
takes the scale of the largest weight; ours are searched. SQNR of the scores and top-1 on images that did not calibrate.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.peers.__main__ import PEERS, environment
from benchmarks.shared_data import RESNET20, ROOT, MissingData
from converter import ConvertError, Recipe, Settings, convert, find_recipe
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.report.table import show
from passes.base import LayerPass
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.rtn import Rtn

__all__ = ["aimet", "main", "methods"]

_CALIBRATE, _MEASURE = 512, 5000


@dataclass(frozen=True)
class _File:
    """A file with rounded weights.

    Attributes:
        method: What rounded them.
        bits: Bits of the weights.
        path: Path of the file.
        cpu_seconds: CPU seconds that it took.
    """

    method: str
    bits: int
    path: Path
    cpu_seconds: float


def methods(bits: int, iterations: int) -> dict[str, Recipe]:
    """Return our recipes by the names of their methods."""
    learned = LearnedRounding(method="soft", steps=iterations, soft_start=1.0)
    solvers: dict[str, tuple[LayerPass, LearnedRounding | None]] = {
        "round to nearest": (Rtn(bits=bits), None),
        "AdaRound, layer by layer": (Rtn(bits=bits), replace(learned, granularity="layer")),
        "AdaRound, block by block": (Rtn(bits=bits), learned),
        "GPTQ": (Gptq(bits=bits), None),
    }
    plain, recipes = find_recipe("int4-weight-only"), {}
    for name, (solver, refined) in solvers.items():
        recipe = plain.with_pass(solver, name)
        recipes[name] = recipe if refined is None else replace(recipe, passes=(*recipe.passes, refined))
    return recipes


def aimet(python: Path, model: Path, data: Path, out: Path, bits: int, iterations: int) -> float:
    """Round the weights by AIMET and return the CPU seconds.

    Raises:
        ConvertError: AIMET fails. The message has its last line.
    """
    script = Path(__file__).with_name("aimet_adaround.py")
    command = [python, script, model, data, out, str(bits), str(iterations)]
    done = subprocess.run(list(map(str, command)), cwd=out.parent, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no file was written"]
        raise ConvertError(f"AIMET, {bits} bits: {lines[-1][:100]}")
    return float(done.stdout.strip().splitlines()[-1].split()[1])


def _files(folder: Path, bits: Sequence[int], iterations: int, python: Path) -> tuple[Path, list[_File], Dataset]:
    model = RESNET20.model()
    calibration, evaluation = RESNET20.images(model, _CALIBRATE)
    reference, data, name = folder / "float.onnx", folder / "calibration.npz", str(model.graph.input[0].name)
    save_onnx(model, reference)
    np.savez(data, x=np.concatenate([batch.feeds[name][: batch.count] for batch in calibration.batches(32)]), name=name)
    files = []
    for count in bits:
        path = folder / f"aimet-{count}.onnx"
        files.append(_File("AIMET's AdaRound", count, path, aimet(python, reference, data, path, count, iterations)))
        for method, recipe in methods(count, iterations).items():
            path, used = folder / f"{len(files)}.onnx", time.process_time()
            with progress_bars() as progress:
                settings = Settings(limit=len(calibration), timing=False)
                convert(model, calibration, recipe=recipe, settings=settings, progress=progress).save(path)
            files.append(_File(method, count, path, time.process_time() - used))
    return reference, files, evaluation.limit(_MEASURE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Round, measure and print. The result is 1 if data are missing, or if AIMET fails or cannot be installed."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.adaround", description="AIMET's AdaRound beside ours.")
    parser.add_argument("--bits", nargs="+", type=int, choices=range(2, 9), default=[4, 3, 2], metavar="N")
    parser.add_argument("--iterations", type=int, default=1000, metavar="N", help="of each layer; default 1000")
    options = parser.parse_args(arguments)
    if options.iterations < 1:
        parser.error("--iterations must be at least 1")
    table = Table("bits", "method", "SQNR", "top-1", "CPU s", box=box.SIMPLE_HEAD, header_style="bold")
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        try:
            python = environment("aimet", PEERS["aimet"], ROOT / "build" / "peers")
            reference, files, evaluation = _files(Path(folder), options.bits, options.iterations, python)
            found = evaluate([reference, *(each.path for each in files)], evaluation, latency=False).models[1:]
        except (ConvertError, MissingData, subprocess.CalledProcessError) as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    for each, file in zip(files, found, strict=True):
        table.add_row(
            str(each.bits),
            each.method,
            f"{file.sqnr_db:.2f} dB",
            f"{100 * (file.top1 or 0):.2f} %",
            f"{each.cpu_seconds:.0f}",
        )
    show([table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
