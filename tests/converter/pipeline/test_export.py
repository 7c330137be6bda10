"""`converter.export`: a torch model as float ONNX, with its preprocessing, saved as a result is."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from converter.data.preprocess import stored_preprocess
from passes.errors import UsageError

torch = pytest.importorskip("torch")

SHAPE = converter.ExportOptions(input_shape=(1, 3, 8, 8))
HALF = converter.Preprocess(mean=(0.5,), std=(0.25,))


def module() -> Any:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()


def test_the_file_computes_what_the_module_computes(tmp_path: Path) -> None:
    network, path = module(), tmp_path / "m.onnx"
    exported = converter.export(network, export=SHAPE, preprocess=HALF)
    exported.save(path)
    assert stored_preprocess(onnx.load(path)) == HALF
    assert exported.parity.relative < 1e-5
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    evaluation = converter.evaluate([path, network], x, export=SHAPE)
    assert evaluation.models[1].agreement == 1


def test_a_module_without_preprocessing_gets_none() -> None:
    assert stored_preprocess(converter.export(module(), export=SHAPE).model) == converter.Preprocess()


def test_it_is_one_line_in_a_console() -> None:
    assert repr(converter.export(module(), export=SHAPE)).startswith(
        "<ExportResult: 3 nodes, max |onnxruntime - torch|"
    )


def test_what_is_onnx_already_is_refused() -> None:
    for model, name in (("m.onnx", "m.onnx"), (onnx.ModelProto(), "the model")):
        with pytest.raises(UsageError, match=f"^{name} is not exported by torch; give FILE.py:FACTORY or a torch"):
            converter.export(model)
