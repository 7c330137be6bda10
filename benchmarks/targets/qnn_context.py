"""A QNN context binary: the graph as Qualcomm's compiler leaves it, so that a device loads it and compiles nothing.

onnxruntime-qnn writes one with the session entry ``ep.context_enable``. This program makes one of an int8 file, loads
both, and compares time to load, size and outputs. It runs the HTP library that the package has for x86.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from rich import box
from rich.table import Table

from benchmarks.random_resnet import random_images, random_resnet18
from benchmarks.shared_data import MissingData
from converter import Settings, convert
from converter.report.table import show
from converter.targets.catalog import find_target
from converter.verification.environments import find_environment
from passes.errors import ModelError

__all__ = ["PROGRAM", "main", "measured"]

PROGRAM = """
import json, sys, time
import numpy as np
import onnxruntime as ort
import onnxruntime_qnn

model, context = sys.argv[1:3]
ort.register_execution_provider_library("QNNExecutionProvider", onnxruntime_qnn.get_library_path())
device = next(each for each in ort.get_ep_devices() if each.ep_name == "QNNExecutionProvider")
settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "offload_graph_io_quantization": "0"}


def opened(path, entries):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_provider_for_devices([device], settings)
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    started = time.perf_counter()
    return ort.InferenceSession(path, options), time.perf_counter() - started


writing = {"ep.context_enable": "1", "ep.context_embed_mode": "1", "ep.context_file_path": context}
whole = {"session.disable_cpu_ep_fallback": "1"}
opened(model, {**whole, **writing})
(compiled, compiling), (loaded, loading) = opened(model, whole), opened(context, whole)
image = compiled.get_inputs()[0]
x = np.random.default_rng(0).random([each if isinstance(each, int) else 1 for each in image.shape], np.float32)
one, other = (session.run(None, {image.name: x})[0] for session in (compiled, loaded))
print(json.dumps({"compiling": compiling, "loading": loading, "difference": float(np.abs(one - other).max())}))
"""
"""Program for the provider's Python. Arguments: the model and the file of the context."""

_SIDE, _IMAGES, _LIMIT = 64, 16, 300


def measured(folder: Path) -> dict[str, float] | str:
    """Make a context binary of ResNet-18 with random weights in int8.

    Args:
        folder: Folder for the files.

    Returns:
        Seconds to compile and to load, bytes of both files, and the largest difference of an output; or why there is
        no provider.
    """
    target = find_target("qnn")
    found = find_environment(target)
    if isinstance(found, str):
        return found
    model, context = folder / "model.onnx", folder / "context.onnx"
    settings = Settings(timing=False)
    images = random_images(_IMAGES, _SIDE)
    convert(random_resnet18(_SIDE), images, recipe="int8", target=target.name, settings=settings).save(model)
    command = [found.command[0], "-c", PROGRAM, str(model), str(context)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    if done.returncode:
        raise ModelError(f"no context binary: {done.stderr.strip().splitlines()[-1]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer | {"model": model.stat().st_size, "context": context.stat().st_size}


def main() -> int:
    """Print both times, both sizes, and whether the outputs are equal. The result is 1 if they are not."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        found = measured(Path(folder))
    if isinstance(found, str):
        raise MissingData(found)
    built = Table(title="ResNet-18, int8, on HTP", box=box.SIMPLE_HEAD, header_style="bold", title_justify="left")
    for column in ("file", "to open a session", "size"):
        built.add_column(column, justify="left" if column == "file" else "right")
    built.add_row("model", f"{found['compiling']:.2f} s", f"{found['model'] / 1e6:.2f} MB")
    built.add_row("context binary", f"{found['loading']:.2f} s", f"{found['context'] / 1e6:.2f} MB")
    built.caption = f"largest difference of an output: {found['difference']:g}"
    show([built])
    return int(found["difference"] > 0)
