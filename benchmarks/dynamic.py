"""Recipe `dynamic` and onnxruntime's quantize_dynamic, on a Vision Transformer and an LSTM with random weights.

    python -m benchmarks dynamic

Neither needs data. onnxruntime quantizes weights with one scale for the whole tensor, or one for each output channel
(`per_channel`).
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.bar import Bar
from benchmarks.random_resnet import random_images, random_network
from benchmarks.side_by_side import processor_speedups
from converter import Settings, convert
from converter.model_io.save import save_onnx
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import sqnr_db

__all__ = ["dynamic", "recurrent", "sequences"]

_JUDGED, _ROUNDS = 8, 60
_OURS = "dynamic"
_STEPS, _FEATURES, _HIDDEN, _OUTPUTS = 50, 128, 256, 10


def dynamic(progress: Progress) -> Iterator[Bar]:
    """Compare size, error and processor time of both at batch 1: images of 224 pixels, and sequences of 50 steps."""
    images = random_images(_JUDGED, seed=1)
    yield from _compared("ViT-Ti", random_network("vit.py:vit_tiny"), [image[None] for image in images], progress)
    yield from _compared("LSTM", recurrent(), sequences(), progress)


def sequences() -> list[NDArray[np.float32]]:
    """Return random sequences for `recurrent`."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((_STEPS, 1, _FEATURES), dtype=np.float32) for _ in range(_JUDGED)]


def recurrent(op: str = "LSTM", directions: int = 2) -> onnx.ModelProto:
    """Return two LSTM or GRU layers of 256 with random weights on [50, n, 128], and a layer of 10 outputs."""
    rng = np.random.default_rng(0)
    rows = {"LSTM": 4, "GRU": 3}[op] * _HIDDEN
    nodes, weights, source, inputs = [], [], "input", _FEATURES
    for index in range(2):
        shapes = {"w": (directions, rows, inputs), "r": (directions, rows, _HIDDEN), "b": (directions, 2 * rows)}
        for name, shape in shapes.items():
            values = rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)
            weights.append(numpy_helper.from_array(values, f"{name}{index}"))
        reads = [source, *(f"{name}{index}" for name in shapes)]
        layer = helper.make_node(op, reads, [f"y{index}"], f"{op.lower()}{index}", hidden_size=_HIDDEN)
        direction = "bidirectional" if directions == 2 else "forward"
        layer.attribute.append(helper.make_attribute("direction", direction))
        nodes.append(layer)
        nodes.append(helper.make_node("Transpose", [f"y{index}"], [f"t{index}"], f"t{index}", perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t{index}", "shape"], [f"s{index}"], f"s{index}"))
        source, inputs = f"s{index}", directions * _HIDDEN
    weights.append(numpy_helper.from_array(np.array([0, 0, -1]), "shape"))
    last = rng.standard_normal((inputs, _OUTPUTS), dtype=np.float32) * np.float32(inputs**-0.5)
    weights.append(numpy_helper.from_array(last, "w"))
    nodes.append(helper.make_node("MatMul", [source, "w"], ["output"], "head"))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [_STEPS, "n", _FEATURES])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, [_STEPS, "n", _OUTPUTS])
    graph = helper.make_graph(nodes, "recurrent", [given], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _compared(
    what: str, model: onnx.ModelProto, samples: Sequence[NDArray[np.float32]], progress: Progress
) -> Iterator[Bar]:
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        folder = Path(temporary)
        files = {"float": folder / "float.onnx", _OURS: folder / "dynamic.onnx"}
        save_onnx(model, files["float"])
        convert(model, recipe="dynamic", settings=Settings(timing=False), progress=progress).save(files[_OURS])
        files |= _by_onnxruntime(files["float"], folder)
        exact = Runner(files["float"], "float")
        expected = [exact.execute({"input": sample})[0] for sample in samples]
        errors = {}
        for name, path in files.items():
            runner = Runner(path, name)
            found = [runner.execute({"input": sample})[0] for sample in samples]
            errors[name] = sqnr_db(np.concatenate(expected), np.concatenate(found))
        faster = processor_speedups(files, {"input": samples[0]}, rounds=_ROUNDS)
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    for name in list(files)[1:]:
        ours = name == _OURS
        note = f"{faster[name]:.2f} times float's speed, {sizes['float']:.1f} -> {sizes[name]:.1f} MB"
        best = max(error for other, error in errors.items() if other not in {"float", _OURS})
        yield Bar(f"{what}, {name}: SQNR", errors[name], best if ours else None, "dB", True, note)
    quickest = max(speed for name, speed in faster.items() if name not in {"float", _OURS})
    yield Bar(f"{what}: speed over the faster quantize_dynamic", faster[_OURS] / quickest, 0.95, "x", True)


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
            op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
        )
        written[f"quantize_dynamic {name}"] = path
    return written
