"""Ctrl-C and SIGTERM in the first second of a command, while Python and its libraries load.

    python -m benchmarks.early_signals              60 signals of each kind
    python -m benchmarks.early_signals --count 300

Each command is a process of its own, `python -m converter convert`, and gets a signal after a delay between 0 and 1.2
seconds. It must end by that signal, or with exit code 130 or 143, say one line at most, and leave nothing, or a whole
model if that had its name already. A command that is done before the signal counts as done. In the first 10
milliseconds Python itself starts, and answers Ctrl-C with a traceback before it runs any line of this project; those
are counted apart. The exit code is 1 if a command does anything else.
"""

import argparse
import collections
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from models.zoo import ZOO, feeds_of

__all__ = ["main", "stopped"]

ROOT = Path(__file__).parents[1]
_LONGEST = 1.2  # seconds until the last signal
_WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}


def stopped(number: signal.Signals, delay: float, folder: Path) -> tuple[str, str]:
    """Stop a conversion after a delay.

    Args:
        number: The signal.
        delay: Seconds from the start of the process.
        folder: A folder with model.onnx and data.npz.

    Returns:
        How the command ended, and what is wrong with it, or "".
    """
    before = set(folder.rglob("*"))
    command = [
        sys.executable,
        "-m",
        "converter",
        "convert",
        "model.onnx",
        "-o",
        "out.onnx",
        "--calibration",
        "data.npz",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    with subprocess.Popen(
        [*command, "--quiet"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        time.sleep(delay)
        child.send_signal(number)
        said = child.communicate(timeout=60)[1]
    code = child.returncode
    left = {str(path.relative_to(folder)) for path in set(folder.rglob("*")) - before}
    if code == 0 and left <= {"out.onnx"}:
        (folder / "out.onnx").unlink(missing_ok=True)
        return "done", ""
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    if "KeyboardInterrupt" in said and str(ROOT) not in said:
        return "while Python itself started", ""
    if code not in {-number, 128 + number}:
        return ended, f"{ended}: {said[-300:]}"
    if said.splitlines() not in ([], [_WORDS[number]]):
        return ended, f"says {said[-1000:]}"
    if "out.onnx" in left:  # it got its name before the signal
        onnx.checker.check_model(folder / "out.onnx")
        (folder / "out.onnx").unlink()
    left -= {"out.onnx"}
    return ended, f"leaves {', '.join(sorted(left))}" if left else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Stop the commands, and print those that end badly."""
    parser = argparse.ArgumentParser(prog="benchmarks.early_signals", description="Signals while libraries load.")
    parser.add_argument("--count", type=int, default=60, help="signals of each kind (default: 60)")
    count = parser.parse_args(arguments).count
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it
    faults = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        ends: collections.Counter[str] = collections.Counter()
        with tempfile.TemporaryDirectory(prefix="convert-onnx-signals-") as temporary:
            folder = Path(temporary)
            (folder / "tmp").mkdir()
            model = ZOO["add"]()
            onnx.save(model, folder / "model.onnx")
            np.savez(folder / "data.npz", **feeds_of(model, 64))  # type: ignore[arg-type]
            for index in range(count):
                delay = _LONGEST * index / count
                ended, fault = stopped(number, delay, folder)
                ends[ended] += 1
                if fault:
                    faults += 1
                    print(f"{number.name} after {delay:.3f} s: {fault}", flush=True)
        print(f"{number.name}: {', '.join(f'{times} {ended}' for ended, times in sorted(ends.items()))}", flush=True)
    print(f"{faults} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
