"""Weights and activations of zeros: every pass gives finite, right values, and no warning (in tests it is an error)."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter import Recipe, convert
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Pass
from passes.graph.normalise.normalise import Normalise
from passes.numerics.error import sqnr_db
from passes.scale_migration.awq import Awq
from passes.scale_migration.equalize import Equalize
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gpfq import Gpfq
from passes.weights.gptq import Gptq
from passes.weights.obq import Obq
from passes.weights.qronos import Qronos
from passes.weights.rtn import Rtn
from tests.support.networks import conv, images, network, random, run
from tests.support.recipes import brief

X = images(16, 3, 12, 12)


def pruned(kind: str) -> onnx.ModelProto:
    """Six layers of every kind, in which weights are zero, or too small to matter."""
    constants: dict[str, NDArray[Any]] = {}
    node = helper.make_node
    nodes = [
        conv(constants, "stem", "x", "a", (8, 3, 3, 3)),
        node("Relu", ["a"], ["a1"], "relu1"),
        conv(constants, "expand", "a1", "b", (16, 8, 1, 1)),
        node("Relu", ["b"], ["b1"], "relu2"),
        conv(constants, "depthwise", "b1", "d", (16, 1, 3, 3), group=16),
        node("Relu", ["d"], ["d1"], "relu3"),
        conv(constants, "project", "d1", "p", (8, 16, 1, 1)),
        conv(constants, "next", "p", "q", (16, 8, 1, 1)),
        node("Relu", ["q"], ["q1"], "relu4"),
        node("GlobalAveragePool", ["q1"], ["g"], "mean"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    constants |= {"fc.weight": random(5, 16) * np.float32(0.3), "fc.bias": random(5)}
    for name, weight in constants.items():
        if not name.endswith("weight"):
            continue
        match kind:
            case "channels":
                weight[1] = 0
                weight[:, 2:3] = 0
                weight[..., :1, :1] *= np.float32(weight.shape[2:] != (3, 3))  # a kernel position
            case "layer" if name == "next.weight":
                weight[:] = 0
            case "dead" if name in {"stem.weight", "expand.weight"}:
                weight[1] = 0
                constants[name.replace("weight", "bias")][1] = -1  # behind the Relu always 0
            case "tiny":
                weight[1] *= np.float32(1e-38)
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 5]})


RECIPES: dict[str, tuple[Pass, ...] | str] = {
    "int8": "int8",
    "int4": "int4",
    "int4-weight-only": "int4-weight-only",
    "int8-gptq": "int8-gptq",
    "smoothquant": (SmoothQuant(), ActivationRanges(), Rtn(bits=8)),
    "awq": (Awq(), Rtn(bits=4, block_size=16)),
    "equalize": (Equalize(), ActivationRanges(), Rtn(bits=8)),
    "obq": (ActivationRanges(), Obq(bits=4)),
    "gpfq": (ActivationRanges(), Gpfq(bits=4)),
    "qronos": (ActivationRanges(), Qronos(bits=4)),
    "two levels": (ActivationRanges(), Gptq(bits=3, two_level=True, block_size=8)),
    "bias correction": (ActivationRanges(), Rtn(bits=6), BiasCorrection()),
    "batchnorm": (ActivationRanges(), Rtn(bits=6), ReestimateBatchnorm()),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["channels", "layer", "dead", "tiny"])
def test_zeros_are_no_trouble(kind: str, recipe: str) -> None:
    steps = RECIPES[recipe]
    plan = brief(steps) if isinstance(steps, str) else Recipe(recipe, "", (Normalise(), *steps))
    model = pruned(kind)
    result = convert(model, X, recipe=plan)
    expected, found = run(model, X)[0], run(result.model, X)[0]
    assert np.isfinite(found).all()
    assert sqnr_db(expected, found) > 12
