"""Recipe `dynamic` and onnxruntime's quantize_dynamic, on a Vision Transformer with random weights.

    python -m benchmarks dynamic

Neither needs data. onnxruntime quantizes weights with one scale for the whole tensor, or one for each output channel
(`per_channel`).
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from benchmarks.bar import Bar
from benchmarks.random_resnet import random_images, random_network
from benchmarks.side_by_side import speedups
from converter import Settings, convert
from converter.model_io.save import save_onnx
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import sqnr_db

__all__ = ["dynamic"]

_JUDGED, _SECONDS, _ROUNDS = 8, 60.0, 30
_OURS = "dynamic"


def dynamic(progress: Progress) -> Iterator[Bar]:
    """Compare size, error and time of both on images of 224 pixels, batch 1, one thread."""
    model = random_network("vit.py:vit_tiny")
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        folder = Path(temporary)
        files = {"float": folder / "float.onnx", _OURS: folder / "dynamic.onnx"}
        save_onnx(model, files["float"])
        convert(model, recipe="dynamic", settings=Settings(timing=False), progress=progress).save(files[_OURS])
        files |= _by_onnxruntime(files["float"], folder)
        images = random_images(_JUDGED, seed=1)
        exact = Runner(files["float"], "float")
        expected = [exact.execute({"input": image[None]})[0] for image in images]
        errors = {}
        for name, path in files.items():
            runner = Runner(path, name)
            found = [runner.execute({"input": image[None]})[0] for image in images]
            errors[name] = sqnr_db(np.concatenate(expected), np.concatenate(found))
        faster = speedups(files, images[:1], rounds=_ROUNDS, budget=_SECONDS)
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    for name in list(files)[1:]:
        ours = name == _OURS
        note = f"{faster[name]:.2f} times float's speed, {sizes['float']:.1f} -> {sizes[name]:.1f} MB"
        best = max(error for other, error in errors.items() if other not in {"float", _OURS})
        yield Bar(f"ViT-Ti, {name}: SQNR", errors[name], best if ours else None, "dB", True, note)
    quickest = max(speed for name, speed in faster.items() if name not in {"float", _OURS})
    yield Bar("ViT-Ti: speed over the faster quantize_dynamic", faster[_OURS] / quickest, 0.97, "x", True)


def _by_onnxruntime(model: Path, folder: Path) -> dict[str, Path]:
    """Write the files of quantize_dynamic: int8 weights per tensor and per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)  # it warns about preprocessing that is done here
    prepared, written = folder / "prepared.onnx", {}
    quant_pre_process(str(model), str(prepared))
    for name, per_channel in (("per tensor", False), ("per channel", True)):
        path = folder / f"{name}.onnx"
        quantize_dynamic(
            onnx.load(prepared),
            str(path),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
        )
        written[f"quantize_dynamic {name}"] = path
    return written
