"""What a conversion saves by the cache of an earlier one, and a search by a second worker.

    python -m benchmarks.reuse cache                      a second recipe on the cache of a first one
    python -m benchmarks.reuse workers                    a search within a budget, by one and by two processes
    python -m benchmarks.reuse workers --network resnet56

"cache" converts ResNet-18 with random weights from 64 photographs by each recipe twice: alone, and with the cache that
the other recipe left. Processor seconds are those of the command with all its imports. "workers" searches a network on
CIFAR-10 for the smallest file that loses at most half a point, in turns, on an idle machine, with ``--deterministic``,
since sums in another order would give another file. It compares elapsed seconds, and the files.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.photographs import calibration_crops
from benchmarks.random_resnet import write_random_resnet18
from benchmarks.shared_data import RESNET20, RESNET56, ROOT, MissingData, Pretrained, shared_file
from converter.model_io.save import save_onnx
from converter.report.table import show

__all__ = ["main"]

_NETWORKS = {"resnet20": RESNET20, "resnet56": RESNET56}
_COLOURS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


def _command(*arguments: str | Path, threads: int | None = None) -> tuple[float, float]:
    """Run ``convert-onnx convert`` and return its processor seconds and its elapsed seconds.

    ``threads`` are those of BLAS. None: as the environment says.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "converter", "convert", *map(str, arguments), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.perf_counter() - start


def _cache(folder: Path, recipes: Sequence[str], samples: int) -> Table:
    model, data = write_random_resnet18(folder), folder / "data.npz"
    np.savez(data, input=calibration_crops(samples))
    table = Table("recipe", "alone, CPU s", "after the recipe", "with its cache, CPU s", "share")
    given = (model, "--calibration", data, *_COLOURS, "-o", folder / "out.onnx")
    alone = {name: _command(*given, "--recipe", name, "--cache", folder / name, threads=1)[0] for name in recipes}
    for first, second in (recipes, recipes[::-1]):
        spent, _ = _command(*given, "--recipe", second, "--cache", folder / first, threads=1)
        table.add_row(second, f"{alone[second]:.1f}", first, f"{spent:.1f}", f"{spent / alone[second]:.0%}")
    return table


def _workers(folder: Path, network: Pretrained, turns: int) -> Table:
    path = folder / "float.onnx"
    save_onnx(network.model(), path)
    data = ("--calibration", shared_file(network.calibration), "--deterministic")
    table = Table("turn", "workers", "elapsed s", "against one", "file")
    for turn in range(turns):
        one, expected = 0.0, b""
        for workers in (1, 2):
            out = folder / f"{turn}-{workers}.onnx"
            _, elapsed = _command(
                path, *data, *_COLOURS, "--max-drop", "0.5", "--workers", str(workers), "-o", out, "--limit", "512"
            )
            one, expected = (elapsed, out.read_bytes()) if workers == 1 else (one, expected)
            same = "" if workers == 1 else "the same" if out.read_bytes() == expected else "another"
            table.add_row(str(turn), str(workers), f"{elapsed:.1f}", f"{one / elapsed:.2f}x", same)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. The result is 1 if data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.reuse", description="What a cache and a second worker save.")
    parser.add_argument("what", choices=("cache", "workers"))
    parser.add_argument("--recipes", nargs=2, default=["int8", "int4"], metavar="NAME")
    parser.add_argument("--samples", type=int, default=64, metavar="N")
    parser.add_argument("--network", choices=list(_NETWORKS), default="resnet20")
    parser.add_argument("--turns", type=int, default=2, metavar="N")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        try:
            work = Path(folder)
            table = (
                _cache(work, options.recipes, options.samples)
                if options.what == "cache"
                else _workers(work, _NETWORKS[options.network], options.turns)
            )
        except MissingData as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    show([table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
