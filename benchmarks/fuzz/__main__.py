"""Run every command on mutated models, each in a process of its own.

    python -m benchmarks.fuzz                            1,000 models
    python -m benchmarks.fuzz --count 10000 --seed 7     more, or others
    python -m benchmarks.fuzz --only 4711                one, with its output

A model is one of the structures in `models.structures`, changed as `benchmarks.fuzz.mutations` describes. The seed of a
case decides the model, the change and the command. The exit code is 1 if a command ends in a traceback, a signal, an
unknown exit code or the words "this is a bug", or takes longer than a minute or more than 2 GB of memory.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.fuzz.mutations import mutated
from converter import compare, convert, evaluate, inspect, sensitivity, verify
from converter.cli.main import main as command_line
from models.structures.catalog import STRUCTURES

__all__ = ["Case", "Outcome", "main", "run"]

_LOADED = (
    compare,
    convert,
    evaluate,
    inspect,
    sensitivity,
    verify,
)  # imported before the fork, since every case needs them
_SECONDS = 60.0
_MOST_MB = 2000
_KNOWN_CODES = frozenset({0, 1, 2, 3})
_BAD_WORDS = ("Traceback", "this is a bug")
_NAMES = sorted(STRUCTURES)
_COMMANDS = (
    "inspect",
    "convert",
    "evaluate",
    "compare",
    "reference",
    "verify",
    "rules",
    "sensitivity",
    "weight-only",
    "gptq",
    "kept",
)


@dataclass(frozen=True)
class Case:
    """A mutated model and a command.

    Attributes:
        seed: Decides both.
    """

    seed: int

    @property
    def structure(self) -> str:
        """Name of the model."""
        return _NAMES[self.seed % len(_NAMES)]

    @property
    def command(self) -> str:
        """The command."""
        return _COMMANDS[self.seed // 3 % len(_COMMANDS)]

    def arguments(self, folder: Path) -> list[str]:
        """Write the files of the case to a folder, and return the arguments of the command line."""
        structure = STRUCTURES[self.structure]
        model = structure.build()
        whole, broken = folder / "whole.onnx", folder / "broken.onnx"
        onnx.save(model, whole)
        broken.write_bytes(mutated(model, self.seed))
        (folder / "data.py").write_text(
            "import numpy as np\n\n\ndef feeds():\n"
            f"    return [dict(np.load({str(folder)!r} + f'/{{i}}.npz')) for i in range(2)]\n"
        )
        for index in range(2):
            np.savez(folder / f"{index}.npz", **structure.feeds(np.random.default_rng(index)))  # type: ignore[arg-type]
        data, out = f"{folder / 'data.py'}:feeds", ["-o", str(folder / "out.onnx"), "--quiet"]
        return {
            "inspect": ["inspect", str(broken)],
            "convert": ["convert", str(broken), "--calibration", data, *out],
            "evaluate": ["evaluate", str(broken), "--data", data, "--quiet"],
            "compare": ["compare", str(whole), str(broken), "--data", data, "--quiet"],
            "reference": ["compare", str(broken), str(whole), "--data", data, "--quiet"],
            "verify": ["verify", str(broken), "--target", "cpu"],
            "rules": ["verify", str(broken), "--target", "tensorrt"],
            "sensitivity": ["sensitivity", str(broken), "--data", data, "--quiet"],
            "gptq": ["convert", str(broken), "--calibration", data, "--recipe", "int4", *out],
            "weight-only": ["convert", str(broken), "--calibration", data, "--recipe", "int4-weight-only", *out],
            "kept": ["convert", str(broken), "--recipe", "keep", *out],
        }[self.command]


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: Exit code, or the negative number of the signal.
        output: What it wrote to stderr.
        seconds: How long it took.
        left: Whether a file of a refused conversion is there.
        megabytes: The most memory that it had.
    """

    code: int
    output: str
    seconds: float
    left: bool
    megabytes: int = 0

    @property
    def fault(self) -> str:
        """What is wrong with the outcome. Empty if nothing is."""
        if self.seconds >= _SECONDS:
            return "hangs"
        if self.megabytes > _MOST_MB:
            return f"takes {self.megabytes:,} MB"
        if self.code not in _KNOWN_CODES:
            return f"exit code {self.code}"
        if self.left:
            return "writes a file and fails"
        return next((f"says {word!r}" for word in _BAD_WORDS if word in self.output), "")


def run(case: Case, *, debug: bool = False) -> Outcome:
    """Run a case in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-fuzz-") as temporary:
        folder = Path(temporary)
        arguments = [*case.arguments(folder), *(["--debug"] if debug else [])]
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(arguments, folder)
        code, megabytes = _wait(child, started + _SECONDS)
        output = (folder / "stderr").read_text(errors="replace") if (folder / "stderr").exists() else ""
        left = code != 0 and (folder / "out.onnx").exists()
        return Outcome(code, output, time.monotonic() - started, left, megabytes)


def _become(arguments: Sequence[str], folder: Path) -> None:
    """Run the command line in this process, which ends with it."""
    try:
        for number in (1, 2):
            target = os.open(folder / ("stdout" if number == 1 else "stderr"), os.O_CREAT | os.O_WRONLY)
            os.dup2(target, number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["convert-onnx", *arguments]
        command_line()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except BaseException as error:
        sys.stderr.write(f"Traceback: {type(error).__name__}: {error}")
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(child: int, until: float) -> tuple[int, int]:
    """Return the exit code of a process, which is killed at a time, and the most megabytes that it had."""
    done, status, usage = os.wait4(child, os.WNOHANG)
    while not done:
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            done, status, usage = os.wait4(child, 0)
        else:
            time.sleep(0.01)
            done, status, usage = os.wait4(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss // 1024  # Linux counts in kilobytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, and print those that end badly."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description="Run every command on mutated models.")
    parser.add_argument("--count", type=int, default=1000, help="cases (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case (default: 0)")
    parser.add_argument("--only", type=int, help="run one case, and print what it says")
    options = parser.parse_args(arguments)
    if options.only is not None:
        case = Case(options.only)
        outcome = run(case, debug=True)
        print(case.structure, case.command, outcome.code, outcome.fault or "fine", outcome.output, sep="\n")
        return int(bool(outcome.fault))
    codes: dict[int, int] = {}
    faults = 0
    for seed in range(options.seed, options.seed + options.count):
        case = Case(seed)
        outcome = run(case)
        codes[outcome.code] = codes.get(outcome.code, 0) + 1
        if outcome.fault:
            faults += 1
            lines = outcome.output.strip().splitlines() or [""]
            print(f"{seed} ({case.command}, {case.structure}): {outcome.fault}: {lines[-1][:300]}", flush=True)
        if (done := seed - options.seed + 1) % 500 == 0:
            print(f"{done:,} of {options.count:,}, {faults} faults", file=sys.stderr, flush=True)
    ended = ", ".join(f"{count:,} with exit code {code}" for code, count in sorted(codes.items()))
    print(f"{options.count:,} cases, {faults} faults; {ended}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
