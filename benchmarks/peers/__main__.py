"""Comparison of convert-onnx with other quantizers: one model, the same images, latency in one interleaved run.

    python -m benchmarks.peers                                   ResNet-20, every peer
    python -m benchmarks.peers --model efficientnet nncf aimet   some of them, on another model

Each peer gets an environment in build/peers/NAME (2 GB each for AIMET and Quark) and runs alone. If a peer cannot be
installed, or refuses the model, its row says so. CPU seconds are measured in the same way for all: `time.process_time`
around the conversion, which includes every thread of the process and no import.
"""

import argparse
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56, ROAD_SIGNS, ROOT, MissingData, Pretrained
from converter import ConvertError, Settings, convert
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.report.table import show

__all__ = ["MODELS", "PEERS", "BudgetAttempt", "Peer", "main"]

MODELS: Mapping[str, tuple[Pretrained, int]] = MappingProxyType(
    {
        "resnet20": (RESNET20, 512),
        "resnet56": (RESNET56, 512),
        "efficientnet": (EFFICIENTNET, 256),
        "road_signs": (ROAD_SIGNS, 512),
    }
)
OURS = ("int8", "int4")


@dataclass(frozen=True)
class Peer:
    """A script beside this one, the packages of its environment, and the forms that it makes."""

    script: str
    packages: tuple[str, ...]
    forms: tuple[str, ...]


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "onnxruntime": Peer("onnxruntime_static.py", ("onnxruntime==1.31.1", "onnx", "sympy"), ("W8A8", "W4A8")),
        "nncf": Peer("nncf_ptq.py", ("nncf==3.4.0", "onnx", "onnxruntime"), ("W8A8",)),
        "aimet": Peer("aimet.py", ("aimet-onnx==2.42.0",), ("W8A8", "W4A8")),
        "quark": Peer("quark_int8.py", ("amd-quark==0.13", "torch", "onnxruntime==1.28.0"), ("W8A8", "W4A8")),
        "onnxsim": Peer("onnxsim_int4.py", ("onnxsim==0.8.1", "onnx", "onnxruntime"), ("W4A32",)),
    }
)


@dataclass(frozen=True)
class BudgetAttempt:
    """One attempt at a quantized file.

    Attributes:
        name: Name of the tool.
        form: Form of the file.
        path: Path of the file.
        seconds: Seconds from the float file to the quantized file, without imports.
        cpu_seconds: CPU seconds of all threads in that time. Other work on the machine affects them less.
        trouble: Reason why there is no file. Empty if there is one.
    """

    name: str
    form: str
    path: Path
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    trouble: str = ""


def environment(name: str, peer: Peer, folder: Path) -> Path:
    """Return the interpreter of the peer's environment. The environment is created if it does not exist.

    Raises:
        subprocess.CalledProcessError: A package cannot be installed.
    """
    python = folder / name / "bin" / "python"
    if not (folder / name / ".installed").exists():
        venv.create(folder / name, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pinned = next(
            line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
        )
        (folder / name / "torch.txt").write_text(pinned + "\n", encoding="utf-8")
        command += ["--constraint", str(folder / name / "torch.txt"), *peer.packages]
        subprocess.run(command, check=True)
        (folder / name / ".installed").touch()
    return python


def attempt(name: str, form: str, python: Path, model: Path, data: Path, out: Path) -> BudgetAttempt:
    """Run a peer's script in the folder of the file that it writes.

    The last line of its output has the seconds of the conversion, and the CPU seconds of all its threads
    (`time.process_time`).
    """
    command = [str(python), str(Path(__file__).with_name(PEERS[name].script)), str(model), str(data), str(out), form]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no file was written"]
        return BudgetAttempt(name, form, out, trouble=lines[-1][:100])
    seconds, cpu_seconds = map(float, done.stdout.strip().splitlines()[-1].split())
    return BudgetAttempt(name, form, out, seconds, cpu_seconds)


def run(names: Sequence[str], pretrained: Pretrained, calibrate: int, folder: Path) -> None:
    """Make every file, then show one table."""
    model = pretrained.model()
    calibration, evaluation = pretrained.images(model, calibrate)
    reference, data = folder / "float.onnx", folder / "calibration.npz"
    folder.mkdir(parents=True, exist_ok=True)
    save_onnx(model, reference)
    name = str(model.graph.input[0].name)
    np.savez(data, x=np.concatenate([batch.feeds[name][: batch.count] for batch in calibration.batches(32)]), name=name)
    attempts = []
    for peer in names:
        try:
            python = environment(peer, PEERS[peer], folder.parent)
        except subprocess.CalledProcessError as error:
            trouble = f"not installed: pip exits {error.returncode}"
            attempts.append(BudgetAttempt(peer, "", folder / "none", trouble=trouble))
            continue
        for form in PEERS[peer].forms:
            out = folder / f"{peer}-{form}.onnx"
            out.unlink(missing_ok=True)
            attempts.append(attempt(peer, form, python, reference, data, out))
    with progress_bars() as progress:
        for recipe in OURS:
            used = time.process_time()
            result = convert(
                model, calibration, recipe=recipe, settings=Settings(limit=len(calibration)), progress=progress
            )
            used = time.process_time() - used
            path = folder / f"convert-onnx-{recipe}.onnx"
            result.save(path)
            attempts.append(BudgetAttempt("convert-onnx", recipe, path, result.seconds, used))
    show([_table(reference, attempts, evaluation)])


def _table(reference: Path, attempts: Sequence[BudgetAttempt], evaluation: Dataset) -> Table:
    """Build the table. Files that load are measured together, and rows of other files say what is wrong."""
    usable, trouble = [], {}
    for one in attempts:
        if one.trouble:
            trouble[one.path] = one.trouble
            continue
        try:
            evaluate([one.path], evaluation.limit(4), latency=False)
            usable.append(one)
        except ConvertError as error:
            trouble[one.path] = str(error)[:100]
    with progress_bars() as progress:
        measured = evaluate([reference, *(one.path for one in usable)], evaluation, progress=progress).models
    by_path = dict(zip([reference, *(one.path for one in usable)], measured, strict=True))
    base = by_path[reference]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("tool", "form", "top-1", "size", "latency over float", "conversion", "CPU"):
        table.add_column(column, justify="left" if column in {"tool", "form"} else "right")
    table.add_row("float", "", f"{100 * (base.top1 or 0):.2f} %", f"{base.bytes:,}", "1.00", "", "")
    for one in attempts:
        if one.path in trouble:
            table.add_row(one.name, one.form, trouble[one.path], "", "", "", "")
            continue
        file = by_path[one.path]
        ratio = f"{file.latency_ms / base.latency_ms:.2f}" if file.latency_ms and base.latency_ms else ""
        top1, took, used = f"{100 * (file.top1 or 0):.2f} %", f"{one.seconds:.0f} s", f"{one.cpu_seconds:.0f} s"
        table.add_row(one.name, one.form, top1, f"{file.bytes:,}", ratio, took, used)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the given peers. The result is 1 if data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description="Other quantizers beside convert-onnx.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; default all")
    parser.add_argument("--model", choices=list(MODELS), default="resnet20")
    options = parser.parse_args(arguments)
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"no peer is named {name!r}; there are: {', '.join(PEERS)}")
    pretrained, calibrate = MODELS[options.model]
    try:
        run(options.peers or list(PEERS), pretrained, calibrate, ROOT / "build" / "peers" / options.model)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
