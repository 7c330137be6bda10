"""Deployed files of ResNet-18 at 224 pixels: their size, the operators that run, and their speed."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from benchmarks.bar import Bar
from benchmarks.random_resnet import random_images, random_resnet18
from converter import convert
from converter.data.dataset import Batch
from converter.model_io.save import save_onnx
from converter.model_io.structure import model_bytes
from converter.runtime.latency import latencies
from converter.runtime.session import Progress, open_session

__all__ = ["differing_outputs", "int8_storage", "resnet18", "runtime_operators"]

_IMAGES = 16  # images that calibrate; size, operators and speed do not depend on the codes
_RECIPES = ("int8", "int4", "int4-weight-only")


def resnet18(progress: Progress) -> Iterator[Bar]:
    """Measure ResNet-18 at 224 pixels with random weights: file size, operators, bits, and latency side by side."""
    model, images = random_resnet18(), random_images(_IMAGES)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("float", *_RECIPES)}
        save_onnx(model, paths["float"])
        for recipe in _RECIPES:
            convert(model, images, recipe=recipe, progress=progress).save(paths[recipe])
        yield _size(paths["float"], paths["int4"])
        yield _convolutions(model, paths["int4"])
        yield differing_outputs(onnx.load(paths["int4"]), random_images(4, seed=1))
        times = dict(
            zip(paths, latencies(list(paths.values()), Batch({"input": images[:1]}, None), budget=60).ms, strict=True)
        )
    for recipe, limit in (("int8", 2.8), ("int4", 2.8), ("int4-weight-only", None)):
        note = f"{times['float']:.1f} -> {times[recipe]:.1f} ms, batch 1, 1 thread, interleaved medians"
        yield Bar(f"ResNet-18, {recipe}: faster than float", times["float"] / times[recipe], limit, "x", True, note)


def runtime_operators(path: Path) -> Counter[str]:
    """Count the operators of the graph that onnxruntime really runs."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(path, threads=1, optimized=optimized)
        return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def int8_storage(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every 4-bit and 2-bit constant stored as INT8. Nothing else changes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type in {TensorProto.INT4, TensorProto.INT2}:
            codes = numpy_helper.to_array(tensor).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
    return copy


def differing_outputs(model: onnx.ModelProto, images: np.ndarray) -> Bar:
    """Count the outputs that differ in any bit when the codes are stored as INT8."""
    narrow = sum(tensor.data_type in {TensorProto.INT4, TensorProto.INT2} for tensor in model.graph.initializer)
    packed, plain = (
        open_session(each, threads=1).run(None, {"input": images})[0] for each in (model, int8_storage(model))
    )
    differing = int(np.count_nonzero(packed.view(np.uint32) != plain.view(np.uint32)))
    note = f"of {packed.size:,} outputs; {narrow} constants below 8 bits in the file, none in the other"
    return Bar("ResNet-18, int4: outputs unlike int8 storage", differing, 0, "outputs", note=note)


def _size(reference: Path, path: Path) -> Bar:
    before, after = model_bytes(reference), model_bytes(path)
    note = f"{before:,} -> {after:,} bytes"
    return Bar("ResNet-18, int4: file smaller than float", before / after, 7.7, "x", True, note)


def _convolutions(model: onnx.ModelProto, path: Path) -> Bar:
    wanted = sum(node.op_type == "Conv" for node in model.graph.node)
    operators = runtime_operators(path)
    note = f"{operators['QLinearConv']} QLinearConv of {wanted} Conv in the graph onnxruntime optimized"
    missing = max(wanted - operators["QLinearConv"], 0) + operators["Conv"] + operators["FusedConv"]
    return Bar("ResNet-18, int4: Conv not run on integers", missing, 0, "layers", note=note)
