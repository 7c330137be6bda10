"""Torch modules with several inputs: shapes by name, types, and every refusal."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter.model_io.export import export_module
from passes.errors import ExportError, UsageError
from tests.support.command_line import run

torch = pytest.importorskip("torch")

MODULE = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.words, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Embedding(50, 8), nn.Linear(16, 5)

    def forward(self, ids, image, scale=None):
        seen, read = self.conv(image).relu().mean((2, 3)), self.words(ids).mean(1)
        return {"scores": self.fc(torch.cat([seen, read], 1)), "parts": (seen, read)}


def net():
    torch.manual_seed(0)
    return Two()
"""
SHAPES = ("--input-shape", "image=1,3,16,16", "--input-shape", "ids=1,7:int64")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(MODULE)


@pytest.mark.usefixtures("here")
def test_a_module_with_two_inputs_is_exported_and_converted() -> None:
    done = run("export", "two.py:net", "-o", "two.onnx", *SHAPES)
    assert done.exit_code == 0, done.output
    graph = onnx.load("two.onnx").graph
    assert [value.name for value in graph.input] == ["ids", "image"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in graph.input] == ["batch"] * 2
    assert len(graph.output) == 3
    draw = np.random.default_rng(0)
    images = draw.standard_normal((40, 3, 16, 16), dtype=np.float32)
    np.savez("data.npz", image=images, ids=draw.integers(0, 50, (40, 7)))
    done = run("convert", "two.py:net", "-o", "q.onnx", "--calibration", "data.npz", *SHAPES)
    assert done.exit_code == 0, done.output
    line = run("compare", "two.py:net", "q.onnx", "--data", "data.npz", *SHAPES)
    assert line.exit_code == 0, line.output


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SHAPES[:2], "forward() of Two needs ids too; give --input-shape for each input"),
        (("--input-shape", "img=1,3,16,16"), "forward() of Two has no input img; it has ids, image, scale"),
        (("--input-shape", "image=1,3,16,16", "--input-shape", "ids=1,7:text"), "there is no type 'text'; use float32"),
        ((*SHAPES, "--input-shape", "1,3,8,8"), "give SIZES of the only input once, or NAME=SIZES once for each"),
        (("--input-shape", "image=1,0"), "'1,0' has a size below 1"),
        ((*SHAPES, "--tolerance", "0"), "--tolerance 0 is not above 0; 1e-4 is the default"),
        ((*SHAPES, "--tolerance", "1e-12"), "more than --tolerance 1e-12"),
    ],
)
def test_refusals(options: tuple[str, ...], words: str) -> None:
    done = run("export", "two.py:net", "-o", "two.onnx", *options)
    assert done.exit_code != 0
    assert words in " ".join(done.stderr.split())
    assert not Path("two.onnx").exists()


@pytest.mark.parametrize("given", [{"x": 3}, {"x": "1,a"}, {"x": ()}, {"x": (1, -2)}])
def test_wrong_shapes_are_refused_before_the_export(given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="input_shape="):
        converter.ExportOptions(input_shape=given)


def test_a_named_input_goes_to_the_parameter_of_that_name() -> None:
    class Second(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)

        def forward(self, mask: object = None, x: object = None) -> object:
            assert mask is None
            return self.fc(x)

    exported = export_module(Second(), {"x": (1, 4)})
    assert [value.name for value in exported.model.graph.input] == ["x"]
    with pytest.raises(ExportError, match="has no input y; it has mask, x"):
        export_module(Second(), {"y": (1, 4)})
