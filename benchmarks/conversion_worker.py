"""Convert one model with whatever checkout is on the path, and print what that took as JSON.

    python benchmarks/conversion_worker.py MODEL.onnx DATA RECIPE N SEED OUT.onnx

`benchmarks.conversion_compare` runs this file by its path, with PYTHONPATH set to a checkout. So it imports nothing of
the project but its public names, old and new, and what the command of newer checkouts does first.
"""

import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import converter

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _peak_bytes() -> int:
    """Return the largest resident size of this process. ru_maxrss would start at the size of the parent process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(model: str, data: str, recipe: str, count: str, seed: str, out: str) -> None:
    """Convert, save and print. Floats of an .npz are taken as they are, images are normalised."""
    arguments: dict[str, Any] = {"limit": int(count), "seed": int(seed)}
    if hasattr(converter, "Settings"):  # older checkouts take them as arguments of `convert`
        arguments = {"settings": converter.Settings(**arguments)}
    with contextlib.suppress(ImportError):  # as the command does
        from converter.runtime.freed_memory import keep_freed_memory

        keep_freed_memory()
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    result = converter.convert(
        model, data, recipe=recipe, preprocess=converter.Preprocess(mean=MEAN, std=STD), **arguments
    )
    result.save(Path(out))
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "system": after.ru_stime - before.ru_stime,
                "wall": time.perf_counter() - start,
                "peak": _peak_bytes(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
