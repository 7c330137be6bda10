"""What learning needs is refused before the minutes that it follows."""

import sys
from dataclasses import replace
from typing import Any

import onnx
import pytest

pytest.importorskip("torch")

import torch

from converter import Budget, Recipe, Settings, convert, convert_within
from passes.errors import ConvertError, DataError, QuantizationError
from passes.graph.normalise.normalise import Normalise
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn
from tests.support.networks import images, resnet, single

X = images(64, 3, 12, 12)
ROUNDING, TRAINING = LearnedRounding(steps=2), Qat(epochs=1)


@pytest.fixture(autouse=True)
def no_pass_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: object) -> None:
        raise AssertionError("a pass ran before the refusal")

    monkeypatch.setattr(sys.modules["converter.pipeline.convert"], "run_pass", ran)


def refused(step: LearnedRounding | Qat, x: Any, kind: type[ConvertError], message: str, **changes: Any) -> None:
    model: onnx.ModelProto = changes.get("model", resnet())
    with pytest.raises(kind, match=message):
        convert(model, x, recipe=Recipe("r", "", (Normalise(), Rtn(bits=4), step)))


@pytest.mark.parametrize("step", [ROUNDING, TRAINING])
def test_too_few_images(step: LearnedRounding | Qat) -> None:
    refused(step, X[:3], DataError, f"{step.name} needs at least 4 images, not 3")


def test_labels_that_are_not_there() -> None:
    refused(replace(TRAINING, objective="labels"), X, DataError, "has no labels; `objective='float'`")


def test_a_fixed_batch() -> None:
    refused(TRAINING, X, DataError, "batch is fixed to 8", model=resnet(batch=8))


def test_turning_what_is_no_image() -> None:
    message = "no input of the model has 4 axes"
    refused(replace(TRAINING, flip=True), images(8, 24), DataError, message, model=single("gemm"))


@pytest.mark.parametrize("step", [replace(ROUNDING, device="cuda"), replace(TRAINING, device="cuda")])
def test_no_cuda_device(step: LearnedRounding | Qat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(step, X, QuantizationError, "torch finds no CUDA device; use `device='cpu'` or")


@pytest.mark.parametrize("step", [ROUNDING, TRAINING])
def test_no_torch(step: LearnedRounding | Qat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(step, X, QuantizationError, rf"{step.name} learns with torch; pip install convert-onnx\[torch\]")


def test_a_search_within_a_budget_asks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QuantizationError, match="torch finds no CUDA device"):
        convert_within(resnet(), X, Budget(max_bytes=1), settings=Settings(device="cuda"))
    learning = Recipe("r", "", (Normalise(), Rtn(bits=4), ROUNDING))
    with pytest.raises(DataError, match="learned_rounding needs at least 4 images, not 3"):  # one of 4 judges
        convert_within(resnet(), X[:4], Budget(max_bytes=1), recipe=learning)
