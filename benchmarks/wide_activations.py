"""Activations of 16 bits on Qualcomm's HTP, for a network that 8 bits hurt.

    convert-onnx targets setup qnn
    python -m benchmarks wide-activations

One channel of the images is 40 times as large as the others, as few channels are in transformers and detectors. The
weights that read it are 1/40 of whole numbers up to 127. 8 bits hold them, so that activations lose what is lost.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.bar import Bar
from benchmarks.shared_data import MissingData
from converter import convert, load_data, verify
from converter.data.inputs import input_specs
from converter.runtime.session import Progress
from converter.targets.catalog import find_target
from converter.verification.environments import find_environment

__all__ = ["network", "wide_activations"]

_LARGE, _SIDE, _CHANNELS = 40, 16, 16
_RECIPES = ("int8", "a16w8", "int4", "a16w4")


def network() -> onnx.ModelProto:
    """Return Conv, Relu, Conv, Add, GlobalAveragePool and Gemm with random weights, on images [1, 3, 16, 16]."""
    rng = np.random.default_rng(0)
    first = np.rint(_LARGE * rng.standard_normal((_CHANNELS, 3, 3, 3))).clip(-127, 127)
    first[:, 0] = np.rint(first[:, 0] / _LARGE)
    first[:, 1, 0, 0] = 127
    weights = {
        "first.weight": first / _LARGE,
        "second.weight": rng.standard_normal((_CHANNELS, _CHANNELS, 3, 3)) / np.sqrt(9 * _CHANNELS),
        "head.weight": rng.standard_normal((_CHANNELS, 10)),
    }
    nodes = [
        helper.make_node("Conv", ["input", "first.weight"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "second.weight"], ["c"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["d"], "add"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "head.weight"], ["output"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def wide_activations(progress: Progress) -> Iterator[Bar]:
    """Compare files of 8 and 16 bits on HTP with float."""
    missing = find_environment(find_target("qnn"), None)
    if isinstance(missing, str):
        raise MissingData(f"{missing}; convert-onnx targets setup qnn")
    images = np.random.default_rng(1).standard_normal((36, 3, _SIDE, _SIDE), dtype=np.float32)
    images[:, 0] *= _LARGE
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        reference, path = Path(temporary) / "float.onnx", Path(temporary) / "quantized.onnx"
        onnx.save(network(), reference)
        for place, recipe in enumerate(_RECIPES):
            progress("16-bit activations", place, len(_RECIPES))
            result = convert(network(), images[:32], recipe=recipe, target="qnn")
            result.save(path)
            data = load_data(images[32:], input_specs(result.model))
            verdict = verify(path, "qnn", data, reference=reference, min_agreement=0.0)
            found[recipe] = verdict.float_db or 0.0
            note = f"{found[recipe]:.1f} dB on {verdict.runtime}"
            yield Bar(f"{recipe}: nodes left to the CPU", len(verdict.left), 0, "nodes", note=note)
    progress("16-bit activations", len(_RECIPES), len(_RECIPES))
    yield Bar("a16w8 over int8, on HTP", found["a16w8"] - found["int8"], 10, "dB", at_least=True)
    yield Bar("a16w4 over int4, on HTP", found["a16w4"] - found["int4"], None, "dB")
