"""Small stand-ins for the models and the data of the guide by task, under the names that its pages use."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime import InferenceSession
from PIL import Image

from converter.data.preprocess import Preprocess
from models.net import Net
from tests.support.recurrent import recurrent

__all__ = ["TASKS", "detector", "reader", "segmenter", "two_inputs", "vision_transformer"]

_SIDE = 640  # of the detector's images
_COCO_NUMBERS = (1, 3, 7)  # of its classes
_CLASSES = len(_COCO_NUMBERS)


def _layer(net: Net, x: str, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
    """Add a convolution with this name."""
    weights = net.weight(f"{name}.weight", outputs, inputs, kernel, kernel), net.weight(f"{name}.bias", outputs)
    pads = [kernel // 2 if kernel % 2 else 0] * 4
    return net.node("Conv", x, *weights, name=name, strides=[stride] * 2, pads=pads)


def _reshape(net: Net, x: str, name: str, *shape: int) -> str:
    return net.node("Reshape", x, net.constant(f"{name}.shape", np.array(shape)), name=name)


def detector() -> onnx.ModelProto:
    """Images [n, 3, 640, 640] give boxes and scores [n, 4 + 3, cells] as YOLOv8 does: centre, size, classes."""
    net = Net()
    x = net.node("Relu", _layer(net, "images", "stem", 3, 8, 16, 16))
    rows = []
    for level, stride in enumerate((32, 64)):
        x = net.node("Relu", _layer(net, x, f"level{level}", 8, 8, 3, 2))
        count = (_SIDE // stride) ** 2
        box = _reshape(net, _layer(net, x, f"box{level}", 8, 4, 1), f"box{level}.rows", 0, 4, count)
        scores = _reshape(net, _layer(net, x, f"score{level}", 8, _CLASSES, 1), f"score{level}.rows", 0, -1, count)
        at = np.stack(np.meshgrid(*[np.arange(_SIDE // stride)] * 2)).reshape(2, count) + 0.5  # [2, cells]
        places = net.constant(f"places{level}", np.concatenate([at, 1.5 + 0 * at]).astype(np.float32)[None])
        size = net.constant(f"stride{level}", np.float32(stride))
        pixels = net.node("Mul", net.node("Add", net.node("Tanh", box), places), size)
        raised = net.node("Mul", scores, net.constant(f"contrast{level}", np.float32(3)))
        rows.append(net.node("Concat", pixels, net.node("Sigmoid", raised), name=f"rows{level}", axis=1))
    net.node("Concat", *rows, name="output0", axis=2)
    return net.model("output0", {"images": ("n", 3, _SIDE, _SIDE)})


def segmenter() -> onnx.ModelProto:
    """Images [n, 3, 128, 128] give scores of four classes for every pixel."""
    net = Net()
    wide = net.node("Relu", _layer(net, "image", "stem", 3, 8, 3))
    deep = net.node("Relu", _layer(net, wide, "down", 8, 16, 3, 2))
    deep = net.node("Relu", _layer(net, deep, "middle", 16, 8, 3))
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    deep = net.node("Resize", deep, "", scales, mode="nearest")
    both = net.node("Concat", wide, deep, axis=1)
    net.node("Identity", _layer(net, both, "head", 16, 4, 1), name="scores")
    return net.model("scores", {"image": ("n", 3, 128, 128)})


def reader() -> onnx.ModelProto:
    """Grey lines [n, 1, 32, 128] give scores [n, 32 steps, 11]: a blank and ten digits."""
    net = Net()
    x = net.node("Relu", _layer(net, "line", "stem", 1, 8, 3, 2))
    x = net.node("Relu", _layer(net, x, "deep", 8, 16, 3, 2))
    columns = net.node("ReduceMean", x, net.constant("height", np.array([2])), keepdims=0)  # [n, 16, 32]
    steps = net.node("Transpose", columns, perm=[0, 2, 1])
    product = net.node("MatMul", steps, net.weight("head.weight", 16, 11), name="head")
    net.node("Add", product, net.weight("head.bias", 11), name="scores")
    return net.model("scores", {"line": ("n", 1, 32, 128)})


def two_inputs() -> onnx.ModelProto:
    """Images [n, 3, 64, 64] and numbers [n, 8] give the scores of five classes."""
    net = Net()
    x = net.node("Relu", _layer(net, "image", "stem", 3, 8, 3, 2))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    numbers = net.node("Relu", net.dense("numbers", 8, 8))
    both = net.node("Concat", x, numbers, axis=1)
    net.node("Identity", net.dense(both, 16, 5), name="scores")
    return net.model("scores", {"image": ("n", 3, 64, 64), "numbers": ("n", 8)})


def vision_transformer(width: int = 32, heads: int = 2, patches: int = 49) -> onnx.ModelProto:
    """Patches of 32 pixels, two blocks of attention and MLP, mean of the tokens, ten classes."""
    net = Net()
    x = _reshape(net, _layer(net, "pixel_values", "embeddings", 3, width, 32, 32), "patches", 0, width, patches)
    x = net.node("Transpose", x, name="tokens", perm=[0, 2, 1])
    x = net.node("Add", x, net.weight("positions", 1, patches, width), name="embedded")
    for block in ("layer.0", "layer.1"):
        y = _norm(net, x, f"{block}.norm1", width)
        query, key, value = (
            _heads(net, _linear(net, y, f"{block}.{name}", width, width), heads, order)
            for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
        )
        likeness = net.node("MatMul", query, key, name=f"{block}.likeness")
        scale = net.constant(f"{block}.scale", np.float32((width / heads) ** -0.5))
        shares = net.node("Softmax", net.node("Mul", likeness, scale), axis=-1)
        mixed = net.node("Transpose", net.node("MatMul", shares, value, name=f"{block}.mixed"), perm=[0, 2, 1, 3])
        mixed = _reshape(net, mixed, f"{block}.joined", 0, patches, width)
        x = net.node("Add", x, _linear(net, mixed, f"{block}.output", width, width))
        y = _linear(net, _norm(net, x, f"{block}.norm2", width), f"{block}.fc1", width, 4 * width)
        x = net.node("Add", x, _linear(net, net.node("Gelu", y), f"{block}.fc2", 4 * width, width))
    x = net.node("ReduceMean", _norm(net, x, "norm", width), net.constant("axis", np.array([1])), keepdims=0)
    net.node("Identity", _linear(net, x, "classifier", width, 10), name="logits")
    return net.model("logits", {"pixel_values": ("n", 3, 224, 224)})


def _linear(net: Net, x: str, name: str, inputs: int, outputs: int) -> str:
    weight = net.constant(f"{name}.weight", net.rng.standard_normal((inputs, outputs)).astype(np.float32) / inputs**0.5)
    return net.node("Add", net.node("MatMul", x, weight, name=name), net.weight(f"{name}.bias", outputs))


def _norm(net: Net, x: str, name: str, width: int) -> str:
    scale, bias = net.constant(f"{name}.weight", np.ones(width, np.float32)), net.weight(f"{name}.bias", width)
    return net.node("LayerNormalization", x, scale, bias, name=name, axis=-1)


def _heads(net: Net, x: str, heads: int, order: list[int]) -> str:
    return net.node("Transpose", _reshape(net, x, f"{x}.heads", 0, 0, heads, -1), perm=order)


def _pictures(folder: Path, count: int, size: tuple[int, int], mode: str = "RGB") -> None:
    """Write coarse noise as pictures of one size."""
    folder.mkdir()
    draw = np.random.default_rng(2)
    for place in range(count):
        pixels = draw.integers(0, 256, (8, 9, 3)[: 3 if mode == "RGB" else 2], dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{place:03}.jpg")


def _detection(folder: Path) -> None:
    """Write a detector, pictures, and as boxes in COCO's form some of those that it finds."""
    model, count = detector(), 12
    onnx.save(model, folder / "detector.onnx")
    _pictures(folder / "images", count, (320, 240))
    preprocess, boxes = Preprocess(letterbox=_SIDE), []
    session = InferenceSession(model.SerializeToString())
    for place in range(count):
        with Image.open(folder / "images" / f"{place:03}.jpg") as image:
            x = preprocess.pixels(image, 3).transpose(2, 0, 1)[None].astype(np.float32) / 255
        rows = session.run(None, {"images": x})[0][0]  # [4 + classes, cells]
        for cell in rows[4:].max(axis=0).argsort()[-4:]:
            across, down, width, height = (rows[:4, cell] / (_SIDE / 320)).tolist()
            kind = _COCO_NUMBERS[rows[4:, cell].argmax()]
            box = [across - width / 2, down - height / 2 - 40, width, height]  # 40 rows of the square are padding above
            boxes.append({"image_id": 100 + place, "category_id": kind, "bbox": box})
    images = [{"id": 100 + place, "file_name": f"{place:03}.jpg"} for place in range(count)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": kind} for kind in _COCO_NUMBERS]}
    (folder / "instances.json").write_text(json.dumps(content))


def _segmentation(folder: Path) -> None:
    """Write a segmenter, scenes, and masks of class numbers."""
    onnx.save(segmenter(), folder / "segmenter.onnx")
    _pictures(folder / "scenes", 16, (200, 150))
    (folder / "masks").mkdir()
    draw = np.random.default_rng(4)
    for place in range(16):
        mask = np.kron(draw.integers(0, 4, (5, 5)), np.ones((30, 40))).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{place:03}.png")


def _text(folder: Path) -> None:
    """Write a reader, pictures of lines, and what stands in them."""
    onnx.save(reader(), folder / "reader.onnx")
    _pictures(folder / "lines", 32, (180, 40), "L")
    draw = np.random.default_rng(5)
    lines = [f"{place:03}.jpg\t{draw.integers(1000, 100000)}" for place in range(32)]
    (folder / "lines" / "texts.tsv").write_text("\n".join(lines) + "\n")


def _two_inputs(folder: Path) -> None:
    onnx.save(two_inputs(), folder / "two_inputs.onnx")


def _vision_transformer(folder: Path) -> None:
    onnx.save(vision_transformer(), folder / "vit.onnx")


def _states(folder: Path) -> None:
    onnx.save(recurrent(), folder / "voice.onnx")


def _half(folder: Path) -> None:
    """Write the classifier in float16."""
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, folder / "model_fp16.onnx")


def _quantized(folder: Path) -> None:
    """Write the classifier as onnxruntime quantizes it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    batches = iter([{"input": np.random.default_rng(6).standard_normal((8, 3, 224, 224), dtype=np.float32)}])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    quantize_static(
        folder / "model.onnx", folder / "quantized.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )


TASKS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        "audio.md": _states,
        "already-int8.md": _quantized,
        "detector.md": _detection,
        "fp16.md": _half,
        "ocr.md": _text,
        "segmentation.md": _segmentation,
        "two-inputs.md": _two_inputs,
        "vit.md": _vision_transformer,
    }
)
"""What writes the files that a page needs beside those of the rest of the guide, by the page's name."""
