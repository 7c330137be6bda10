"""`kill -9` at random moments of conversions, a training, a search within a budget, and a save with weights beside it.

    python -m benchmarks.kills                          100 kills of each
    python -m benchmarks.kills --count 10 --job train

Each command is a process of its own, which is killed at a random moment of its usual time. Then the output must be
absent, as it was, or a whole model that onnxruntime runs. The same command, run again, must end well and leave nothing
but its output: no temporary file or folder, neither beside it nor in the folder for temporary files. A conversion that
goes on after a kill must write the file of an undisturbed one, byte for byte, and it solves no layer again that was
stored (job "int4", ResNet-20). The exit code is 1 otherwise.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime

from benchmarks.random_resnet import random_network
from converter import convert, convert_within, train
from converter.cli.main import main as command_line
from converter.model_io.save import save_onnx
from models.zoo import ZOO, feeds_of

__all__ = ["JOBS", "Kills", "main"]

_LOADED = (convert, convert_within, train)  # imported before the fork, so that the kills hit the work
_WITH_DATA = ("convert", "model.onnx", "-o", "out.onnx", "--quiet", "--calibration", "data.npz", "--limit", "32")


def _command(*arguments: str) -> Callable[[], None]:
    def run() -> None:
        sys.argv = ["convert-onnx", *arguments]
        command_line()

    return run


def _save() -> None:
    """Save a model with its weights beside it, several times, since one save takes a few milliseconds."""
    model = onnx.load("model.onnx")
    for _ in range(10):
        save_onnx(model, Path("out.onnx"), inline_limit=1000)


JOBS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {
        "convert": _command(*_WITH_DATA, "--report", "out.json"),
        "int4": _command(*_WITH_DATA, "--recipe", "int4"),
        "search": _command(*_WITH_DATA, "--max-drop", "100"),
        "train": _command("train", *_WITH_DATA[1:5], "--data", "data.npz", "--epochs", "2"),
        "save": _save,
    }
)


class Kills:
    """A command that is killed again and again in a folder of its own.

    Args:
        name: Name of the job.
        folder: An empty folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.job, self.folder = JOBS[name], folder
        (folder / "tmp").mkdir()
        model = random_network("cifar_resnet.py:resnet20", 32) if name == "int4" else ZOO["opset 21"]()
        onnx.save(model, folder / "model.onnx")
        np.savez(folder / "data.npz", **feeds_of(model, 64))  # type: ignore[arg-type]
        self._same, self.resumed = name in {"convert", "int4"}, Counter[int]()
        self._inputs = self._files()
        self._outputs: dict[str, bytes] = {}
        start = time.monotonic()
        if fault := self.again():
            raise RuntimeError(fault)
        self.seconds = time.monotonic() - start
        self._outputs = {name: (folder / name).read_bytes() for name in self._files() - self._inputs}

    def kill(self, rng: random.Random) -> tuple[str, str]:
        """Kill the command at a random moment, and run it again.

        Returns:
            What the kill left at the output's name, and what is wrong, or "".
        """
        for path in (self.folder / name for name in self._files() - self._inputs):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        old = rng.random() < 0.5
        if old:
            for name, content in self._outputs.items():
                (self.folder / name).write_bytes(content)
        child = self._start(self.job)
        time.sleep(rng.uniform(0, self.seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.resumed[len([*self.folder.glob("out.work/*/layer-*.npz")])] += 1
        out = self.folder / "out.onnx"
        state = "absent" if not out.exists() else "old" if old else "new"
        if out.exists() and not self._runs():
            return state, "out.onnx does not run"
        if old and not out.exists():
            return state, "the old out.onnx is gone"
        return state, self.again()

    def again(self) -> str:
        """Run the command to its end. Return what is wrong."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._start(self.job), 0)[1])
        if code:
            return f"the next run ends with {code}: {(self.folder / 'tmp.log').read_text()[-300:]}"
        if not self._runs():
            return "out.onnx of the next run does not run"
        if self._same and self._outputs and (self.folder / "out.onnx").read_bytes() != self._outputs["out.onnx"]:
            return "out.onnx of the next run is not that of an undisturbed run"
        litter = {
            name for name in self._files() - self._inputs if not name.startswith("out.onnx") and name != "out.json"
        }
        weights = [name for name in self._files() if name.endswith(".data")]
        if len(weights) > 1:
            litter |= {*weights}
        return f"the next run leaves {', '.join(sorted(litter))}" if litter else ""

    def _files(self) -> set[str]:
        files = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        return {name for name in files - {"tmp", "tmp.log"} if "torchinductor" not in name}  # a cache of torch

    def _runs(self) -> bool:
        return not os.waitstatus_to_exitcode(os.waitpid(self._start(self._run), 0)[1])

    def _run(self) -> None:
        session = onnxruntime.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
        session.run(None, feeds_of(onnx.load("model.onnx"), 2))

    def _start(self, work: Callable[[], None]) -> int:
        """Run a function in a process of its own."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            os.chdir(self.folder)
            tempfile.tempdir = str(self.folder / "tmp")
            log = os.open("tmp.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            work()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        finally:
            os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill every command, and print what goes wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.kills", description="kill -9 at random moments.")
    parser.add_argument("--count", type=int, default=100, help="kills of each command (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--job", choices=tuple(JOBS), action="append", help="only this one; may be repeated")
    options = parser.parse_args(arguments)
    faults = 0
    for name in options.job or JOBS:
        rng, states = random.Random(options.seed), Counter[str]()
        with tempfile.TemporaryDirectory(prefix="convert-onnx-kills-") as temporary:
            kills = Kills(name, Path(temporary))
            for index in range(options.count):
                state, fault = kills.kill(rng)
                states[state] += 1
                if fault:
                    faults += 1
                    print(f"{name}, kill {index}: {fault}", flush=True)
        found = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if any(kills.resumed):
            layers = [count for count, times in sorted(kills.resumed.items()) for _ in range(times)]
            print(f"{name}: the next runs went on with {', '.join(map(str, layers))} layers solved", flush=True)
        print(f"{name}: {options.count} kills within {kills.seconds:.1f} s; out.onnx was {found}", flush=True)
    print(f"{faults} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
