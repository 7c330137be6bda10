"""What a conversion takes in this checkout and in another one, in turns.

    git worktree add ../before 03cd64a
    python -m benchmarks.conversion_compare --before ../before
    python -m benchmarks.conversion_compare --before ../before --networks resnet50 --threads 2 --seeds 0 1 2

Weights are random, images are crops of photographs, and SQNR is that of the outputs on crops of other photographs.
Processor seconds are those of the whole process, so they hold beside other work, apart from what it takes of the
caches: compare runs that alternate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.conversion_worker import MEAN, STD
from benchmarks.photographs import calibration_crops, evaluation_crops
from benchmarks.random_resnet import random_network
from benchmarks.shared_data import ROOT
from converter.report.table import show
from converter.runtime.session import open_session
from passes.numerics.error import sqnr_db

__all__ = ["main"]

_NETWORKS = MappingProxyType(
    {
        "resnet18": "resnet.py:resnet18",
        "resnet50": "resnet.py:resnet50",
        "efficientnet_lite0": "efficientnet_lite.py:efficientnet_lite0",
    }
)
_EVALUATE = 32
_TUNED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH")


def _convert(checkout: Path, threads: int, arguments: Sequence[str]) -> dict[str, float]:
    """Convert in a new process that imports a checkout, and return what that took."""
    environment = {name: value for name, value in os.environ.items() if name not in _TUNED}
    environment |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(ROOT / "benchmarks" / "conversion_worker.py"), *arguments]
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def _outputs(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = open_session(path)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.conversion_compare", description="Cost against another checkout.")
    parser.add_argument("--before", type=Path, required=True, metavar="DIR", help="another checkout of the project")
    parser.add_argument("--networks", nargs="+", choices=tuple(_NETWORKS), default=["resnet18"])
    parser.add_argument("--recipe", default="int4", metavar="NAME")
    parser.add_argument("--samples", type=int, default=256, metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of BLAS")
    options = parser.parse_args(arguments)
    if not (options.before / "converter").is_dir():
        parser.error(f"--before {options.before}: no checkout of the project; use git worktree add")
    table = Table("network", "seed", "checkout", "CPU s", "wall s", "SQNR dB", "peak MB")
    unseen = evaluation_crops(_EVALUATE).astype(np.float32) / 255
    images = np.ascontiguousarray(((unseen - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2), np.float32)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        model, data, out = (Path(folder) / name for name in ("float.onnx", "images.npz", "converted.onnx"))
        np.savez(data, x=calibration_crops(options.samples))
        for network in options.networks:
            onnx.save(random_network(_NETWORKS[network]), model)
            exact = _outputs(model, images)
            for seed in options.seeds:
                for name, checkout in (("before", options.before.resolve()), ("here", ROOT)):
                    given = (model, data, options.recipe, options.samples, seed, out)
                    cost = _convert(checkout, options.threads, [str(value) for value in given])
                    table.add_row(
                        network,
                        str(seed),
                        name,
                        f"{cost['processor']:.1f}",
                        f"{cost['wall']:.1f}",
                        f"{sqnr_db(exact, _outputs(out, images)):.2f}",
                        f"{cost['peak'] / 1e6:,.0f}",
                    )
    show([table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
