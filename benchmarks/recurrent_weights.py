"""LSTM and GRU with weights of 8 and 4 bits: bytes, error, processor time and memory, over those of the float file.

    python -m benchmarks recurrent-weights

Weights are random. The last rows compare two forms of the same 8-bit weights of layers that run forward only: a Cast
and a Mul, which onnxruntime computes once, and a DequantizeLinear, which it computes in every run.
"""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from benchmarks.bar import Bar
from benchmarks.dynamic import recurrent, sequences
from benchmarks.side_by_side import processor_speedups
from converter import Recipe, Settings, convert, find_recipe
from converter.model_io.save import save_onnx
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import sqnr_db

__all__ = ["recurrent_weights"]

_ROUNDS = 60
_LEAST_DB = {"int8-weight-only": 30.0, "int4-weight-only-rtn": 12.0}
_LEAST_SMALLER = {"int8-weight-only": 3.8, "int4-weight-only-rtn": 6.5}
_RESIDENT = """
import sys
import numpy, onnxruntime
def resident():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))) / 1000
before = resident()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for _ in range(3):
    session.run(None, {"input": numpy.zeros((50, 1, 128), numpy.float32)})
print(resident() - before)
"""


def recurrent_weights(progress: Progress) -> Iterator[Bar]:
    """Compare the recipes without data with float, and then the two forms of a weight."""
    for op in ("LSTM", "GRU"):
        recipes = {name: find_recipe(name) for name in (*_LEAST_DB, "dynamic")}
        yield from _compared(f"{op}, both ways", recurrent(op), recipes, progress)
        plain = find_recipe("int8-weight-only")
        forms = {"Cast and Mul": plain, "DequantizeLinear": dataclasses.replace(plain, storage="dequantize")}
        yield from _compared(f"{op}, forward", recurrent(op, 1), forms, progress)


def _compared(what: str, model: onnx.ModelProto, recipes: dict[str, Recipe], progress: Progress) -> Iterator[Bar]:
    samples = sequences()
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        files = {"float": Path(temporary) / "float.onnx"}
        save_onnx(model, files["float"])
        for name, recipe in recipes.items():
            files[name] = Path(temporary) / f"{name}.onnx"
            convert(model, recipe=recipe, settings=Settings(timing=False), progress=progress).save(files[name])
        runners = [Runner(path, name) for name, path in files.items()]
        outputs = [np.concatenate([each.execute({"input": sample})[0] for sample in samples]) for each in runners]
        faster = processor_speedups(files, {"input": samples[0]}, rounds=_ROUNDS)
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
        memory = {name: _resident(path) for name, path in files.items()}
    for name, found in zip(recipes, outputs[1:], strict=True):
        note = (
            f"{sizes['float']:.2f} -> {sizes[name]:.2f} MB, {faster[name]:.2f} times float's speed, "
            f"{memory['float']:.1f} -> {memory[name]:.1f} MB of memory"
        )
        yield Bar(f"{what}, {name}: SQNR", sqnr_db(outputs[0], found), _LEAST_DB.get(name), "dB", True, note)
        yield Bar(f"{what}, {name}: size", sizes["float"] / sizes[name], _LEAST_SMALLER.get(name), "x", True)


def _resident(path: Path) -> float:
    """Return the megabytes that a process takes for a session of the file and three runs (Linux)."""
    command = [sys.executable, "-c", _RESIDENT, str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
