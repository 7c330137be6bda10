"""float16 on onnxruntime's CPU: stored and computed in float32, as files for the CPU are, and computed in float16.

python -m benchmarks float16
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from benchmarks.bar import Bar
from benchmarks.random_resnet import random_images, random_network
from benchmarks.side_by_side import processor_speedups
from converter.model_io.narrow_floats import compute_in_float16, store_as_float16
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import sqnr_db

__all__ = ["float16"]

_SIDE = 96


def float16(progress: Progress) -> Iterator[Bar]:
    """Compare the speed and the error of both forms of MobileNetV2 with random weights with float32."""
    progress("float16", 0, 1)
    model = random_network("mobilenet.py:mobilenet_v2", _SIDE, shift=1.0)
    images = random_images(1, _SIDE, seed=1)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "stored", "computed")}
        onnx.save(model, files["float32"])
        stored, computed = onnx.load(files["float32"]), onnx.load(files["float32"])
        store_as_float16(stored)
        compute_in_float16(computed, {}, {})
        onnx.save(stored, files["stored"])
        onnx.save(computed, files["computed"])
        faster = processor_speedups(files, {"input": images})
        exact = Runner(files["float32"], "float32").execute({"input": images})[0]
        for name in ("stored", "computed"):
            error = sqnr_db(exact, Runner(files[name], name).execute({"input": images})[0])
            size = files[name].stat().st_size / files["float32"].stat().st_size
            limit = 0.95 if name == "stored" else None
            note = f"{error:.1f} dB, {size:.2f} of the size"
            yield Bar(f"MobileNetV2, {name} float16 over float32", faster[name], limit, "x", at_least=True, note=note)
    progress("float16", 1, 1)
