"""Whose a checkpoint is: that of another training is refused before any work, and the same call goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")

from converter import Recipe, Settings, train  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.errors import UsageError  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.weights.qat import Qat  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import images, resnet  # noqa: E402

X = images(32, 3, 12, 12)
STEPS = (Normalise(), ActivationRanges(), Rtn(bits=3), Qat(epochs=1, batch=16, rate=0.01, objective="float"))
RECIPE = Recipe("trained", "", STEPS)


def other_weights() -> onnx.ModelProto:
    model = resnet()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    return model


def trained(logged: pytest.LogCaptureFixture, place: Path, **changes: Any) -> tuple[list[str], list[str]]:
    """What the call warned of, and the passes whose work it went through."""
    worked: list[str] = []
    call: dict[str, Any] = {"model": resnet(), "data": X, "recipe": RECIPE} | changes
    settings = Settings(
        checkpoint=place, **{name: call.pop(name) for name in ("limit", "seed", "device") if name in call}
    )
    logged.clear()
    refused = []
    try:
        train(**call, settings=settings, progress=lambda what, *_: worked.append(what))
    except UsageError as error:
        refused.append(str(error))
    return [*logged.messages, *refused], worked


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training that has ended."""
    path = tmp_path_factory.mktemp("training") / "c"
    worked: list[str] = []
    train(resnet(), X, recipe=RECIPE, settings=Settings(checkpoint=path), progress=lambda what, *_: worked.append(what))
    assert path.exists()
    assert {"rtn", "qat"} <= set(worked)
    return path


OTHERS: dict[str, dict[str, Any]] = {
    "model": {"model": other_weights()},
    "images": {"data": X * np.float32(1.01)},
    "labels": {"data": (X, np.zeros(len(X), np.int64))},
    "calibration": {"calibration": X[:16]},
    "limit": {"limit": 16},
    "settings": {"qat": {"epochs": 2}},
    "bits": {"bits": {"stem": 4}},
    "exclude": {"exclude": ("stem",)},
    "target": {"target": "openvino"},
    "seed": {"seed": 1},
    "another_pass": {"recipe": replace(RECIPE, passes=(*STEPS[:2], Rtn(bits=3, scale="absmax"), STEPS[3]))},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS.keys())
def test_another_training_is_refused_before_any_work(
    place: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    before = place.read_bytes()
    warnings, worked = trained(caplog, place, **changes)
    refusal = f"{place} belongs to another training (another model, data or settings)"
    assert warnings[-1] == f"{refusal}; delete it, or give another `checkpoint=`"
    assert worked == []
    assert place.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [{}, {"evaluation": (X, np.zeros(len(X), np.int64))}, {"device": "cpu"}, {"recipe": replace(RECIPE, name="mine")}],
    ids=["nothing", "evaluation", "device", "name"],
)
def test_what_decides_nothing_may_differ(
    place: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    warnings, worked = trained(caplog, place, **changes)
    assert f"continuing from {place}, after epoch 1 of 1" in warnings
    assert "qat" not in worked  # its one epoch is done


def test_what_is_no_checkpoint_is_refused_before_any_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "notes"
    place.write_text("mine")
    warnings, worked = trained(caplog, place)
    assert f"{place} is not a checkpoint" in warnings[-1]
    assert worked == []
    assert place.read_text() == "mine"
