"""Structures of files that people ship: converted right, in both ways that onnxruntime runs a file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import converter
from converter.runtime.output_errors import output_errors
from models.structures.catalog import STRUCTURES
from tests.support.recipes import brief

FLOORS = {"int8": 25.0, "int8-gptq": 25.0, "int4": 12.0, "int4-weight-only": 12.0}
"""dB. Plain rounding has 30 and more at 8 bits and 14 and more at 4 bits."""

RECIPES = [pytest.param(name, marks=() if name in ("int8", "int4") else pytest.mark.slow, id=name) for name in FLOORS]


def runs(path: Path, feeds: list[dict[str, Any]], *, optimize: bool = True) -> tuple[list[str], list[list[Any]]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [value.name for value in session.get_outputs()], [session.run(None, feed) for feed in feeds]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_converted_right(name: str, recipe: str, tmp_path: Path) -> None:
    structure = STRUCTURES[name]
    source, written = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(structure.build(), source)

    def calibration() -> Any:
        return (structure.feeds(np.random.default_rng([0, seed])) for seed in range(48))

    result = converter.convert(source, calibration, recipe=brief(recipe))
    result.save(written)
    assert any(layer.bits < 32 for layer in result.layers)
    feeds = [structure.feeds(np.random.default_rng([1, seed])) for seed in range(4)]
    names, expected = runs(source, feeds)
    for optimize in (True, False):
        found, outputs = runs(written, feeds, optimize=optimize)
        assert found == names
        errors = output_errors(expected, outputs, names)
        assert min(errors.values()) > FLOORS[recipe], (optimize, errors)
        assert all(errors[exact] == math.inf for exact in structure.exact), (optimize, errors)
