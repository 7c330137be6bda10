"""Times of convolutions of many shapes: the integer kernel, the float kernel, and a float layer between integers.

    python -m benchmarks.kernel_times

Each convolution stands between two 1x1 convolutions. Its time is that of its node in onnxruntime's profile, on one
thread. For a float layer between integers, the changes between integers and floats are added. The last columns are what
`passes.numerics.kernel_times` expects. The exit code is 1 if it expects the wrong kernel to be faster, by more than a
quarter.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter import Settings, convert
from converter.report.table import plain_table, show
from converter.runtime.session import open_session
from passes.numerics.kernel_times import Convolution, KernelTimes

__all__ = ["SHAPES", "Shape", "main"]

_RUNS = 40
_MARGIN = 1.25
_ENDS = 8  # channels of the 1x1 convolutions' other side


@dataclass(frozen=True)
class Shape:
    """A convolution: channels, groups, kernel, stride, and the size of its input."""

    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, ...]
    stride: int
    size: tuple[int, ...]

    @property
    def numbers(self) -> Convolution:
        """What the model of the times reads."""
        taps = math.prod(self.kernel)
        pixels = math.prod((n - 1) // self.stride + 1 for n in self.size)
        inputs, outputs = self.inputs // self.groups, self.outputs // self.groups
        return Convolution(self.groups, inputs, outputs, taps, taps // self.kernel[-1], pixels, len(self.kernel))


def _shapes() -> Iterator[Shape]:
    for k in (3, 5, 7):  # depthwise
        for channels, size in ((16, 56), (32, 56), (96, 28), (256, 14)):
            yield Shape(channels, channels, channels, (k, k), 1, (size, size))
    for inputs, outputs in ((1, 2), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (2, 1), (8, 1), (1, 8), (4, 16)):
        yield Shape(16 * inputs, 16 * outputs, 16, (3, 3), 1, (28, 28))
    for inputs, outputs in ((3, 16), (16, 16), (48, 48), (64, 64)):  # one group
        yield Shape(inputs, outputs, 1, (3, 3), 1, (56, 56))
        yield Shape(inputs, outputs, 1, (1, 1), 1, (56, 56))
    for inputs, outputs, groups in ((16, 16, 1), (64, 64, 1), (64, 64, 64), (64, 128, 64), (64, 64, 16)):
        yield Shape(inputs, outputs, groups, (9,), 1, (1024,))


SHAPES = tuple(_shapes())


def _network(shape: Shape) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    ones = (1,) * len(shape.kernel)
    weights = {
        "before.w": rng.normal(size=(shape.inputs, _ENDS, *ones)),
        "layer.w": rng.normal(size=(shape.outputs, shape.inputs // shape.groups, *shape.kernel)),
        "after.w": rng.normal(size=(_ENDS, shape.outputs, *ones)),
    }
    nodes: list[NodeProto] = []
    tensor = "input"
    for name in ("before", "layer", "after"):
        attributes: dict[str, Any] = {"kernel_shape": ones}
        if name == "layer":
            pads, strides = [k // 2 for k in shape.kernel] * 2, [shape.stride] * len(ones)
            attributes = {"kernel_shape": shape.kernel, "pads": pads, "strides": strides, "group": shape.groups}
        nodes.append(helper.make_node("Conv", [tensor, f"{name}.w"], [f"{name}.y"], name, **attributes))
        nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.r"], f"{name}.relu"))
        tensor = f"{name}.r"
    graph = helper.make_graph(
        nodes,
        "kernel",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", _ENDS, *shape.size])],
        [onnx.ValueInfoProto(name=tensor)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _microseconds(model: onnx.ModelProto, images: np.ndarray, node: str) -> tuple[float, float]:
    """Return the time of a node, and that of all nodes except those of the two ends."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, threads=1, profile=Path(folder) / "profile")
        for _ in range(_RUNS):
            session.run(None, {"input": images[:1]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times.setdefault(event["name"], []).append(event["dur"])
    quick = {name: float(np.quantile(values, 0.1)) for name, values in times.items()}
    own = sum(time for name, time in quick.items() if name.startswith(node))
    rest = sum(time for name, time in quick.items() if not name.startswith(("before", "after")))
    return own, rest


def _row(shape: Shape) -> tuple[float, float, float]:
    """Return microseconds of the integer kernel, the float kernel, and the float layer between integers."""
    model, images = _network(shape), np.random.default_rng(1).normal(size=(4, _ENDS, *shape.size)).astype(np.float32)
    settings = Settings(seed=0)
    everything = convert(model, images, target="openvino", settings=settings).model  # without times: all on integers
    island = convert(model, images, target="openvino", exclude=["layer"], settings=settings).model
    integer, around = _microseconds(everything, images, "layer")
    in_float, _ = _microseconds(model, images, "layer")
    return integer, in_float, _microseconds(island, images, "layer")[1] - (around - integer)


def main() -> int:
    """Time all shapes, and compare them with what is expected."""
    times, wrong = KernelTimes(), 0
    names = ("channels", "groups", "kernel", "size", "integer", "float", "between", "integer?", "float?")
    table = plain_table("Microseconds; ? is expected", names, range(1, len(names)))
    for shape in SHAPES:
        integer, in_float, between = _row(shape)
        expected = times.integer_time(shape.numbers) / 1e3, times.float_time(shape.numbers) / 1e3
        apart = max(integer / in_float, in_float / integer) > _MARGIN
        wrong += apart and (integer > in_float) != (expected[0] > expected[1])
        numbers = (integer, in_float, between, *expected)
        size = "x".join(map(str, shape.size))
        channels, kernel = f"{shape.inputs} to {shape.outputs}", "x".join(map(str, shape.kernel))
        table.add_row(channels, str(shape.groups), kernel, size, *(f"{number:.0f}" for number in numbers))
    show([table])
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
