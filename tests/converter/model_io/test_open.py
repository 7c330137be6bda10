"""Models by any name, or in memory: the same checks, and the caller's object does not change."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import convert
from converter.model_io.load import load_proto
from converter.model_io.open import ExportOptions, model_files, open_model
from converter.runtime.session import open_session
from passes.errors import ModelError, UsageError
from tests.support.command_line import SCALE, run
from tests.support.models import SIDE, images, small_cnn

pytestmark = pytest.mark.usefixtures("folder")

NET = ("--input-shape", f"1,3,{SIDE},{SIDE}")


def old_small_cnn() -> onnx.ModelProto:
    model = small_cnn()
    model.opset_import[0].version = 13
    model.ir_version = 7
    return model


def test_a_model_in_memory_stays_as_it_was() -> None:
    model = old_small_cnn()
    before = model.SerializeToString()
    upgraded = open_model(model)
    assert model.SerializeToString() == before
    assert upgraded.opset_import[0].version == 21
    convert(model, images(32), evaluation=(images(8), np.zeros(8, int)))
    assert model.SerializeToString() == before


def test_a_model_in_memory_is_checked_as_a_file_is() -> None:
    broken = small_cnn()
    broken.graph.node[0].input[0] = "nowhere"
    empty = small_cnn()
    del empty.graph.node[:]
    outside = small_cnn()
    outside.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    for model, words in (
        (broken, "model is not a valid ONNX model: .*nowhere"),
        (empty, r"model: the graph is empty \(no nodes\)"),
        (outside, "data of stem.weight are in a file outside"),
    ):
        with pytest.raises(ModelError, match=words):
            convert(model, images(32))


def test_a_model_too_large_for_one_protobuf_is_checked_and_unchanged() -> None:
    """A lower size limit stands for models above 2 GB."""
    model = small_cnn()
    before = model.SerializeToString()
    assert load_proto(model).graph == model.graph
    broken = small_cnn()
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="model is not a valid ONNX model"):
        load_proto(broken)
    assert model.SerializeToString() == before


def test_a_session_of_a_large_model_does_not_move_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.model_io.sizes.INLINE_LIMIT", 0)
    monkeypatch.setattr("converter.model_io.write._EXTERNAL_FROM", 0)
    model = small_cnn()
    before = model.SerializeToString()
    feeds = {"input": np.ones((2, 3, SIDE, SIDE), np.float32)}
    first = open_session(model).run(None, feeds)[0]
    assert model.SerializeToString() == before
    monkeypatch.undo()
    np.testing.assert_array_equal(first, open_session(model).run(None, feeds)[0])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("", "an argument is empty; give a value"),
        ("net.py", "name the function in it that returns the model: net.py:net, net.py:broken"),
        ("gone.py", "gone.py:FACTORY"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("convert", "-o", "out.onnx", "--calibration", "calibration.npz"),
        ("evaluate", "--data", "unseen.npz"),
        ("compare", "m.onnx", "--data", "unseen.npz"),
        ("inspect",),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("unchanged")
def test_names_that_are_not_a_model(command: tuple[str, ...], model: str, words: str) -> None:
    result = run(*command, model)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("unchanged")
def test_a_folder_is_no_model() -> None:
    for command in (("inspect", "."), ("convert", ".", "-o", "out.onnx", "--calibration", "calibration.npz")):
        result = run(*command)
        assert result.exit_code == 1
        assert "is a folder, not an ONNX file; pass a file in it, such as m.onnx" in result.stderr


@pytest.mark.parametrize("option", [("--input-shape", "1,3,12,12"), ("--weights", "w.npz")], ids=lambda o: o[0])
@pytest.mark.parametrize(
    "command",
    [
        ("convert", "m.onnx", "-o", "out.onnx", "--calibration", "calibration.npz"),
        ("evaluate", "m.onnx", "--data", "unseen.npz"),
        ("compare", "m.onnx", "m.onnx", "--data", "unseen.npz"),
        ("inspect", "m.onnx"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("unchanged")
def test_options_of_factories_are_refused_for_files(command: tuple[str, ...], option: tuple[str, str]) -> None:
    result = run(*command, *option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{option[0]} is for FILE.py:FACTORY" in result.stderr


def test_options_of_factories_are_refused_for_models_in_memory() -> None:
    with pytest.raises(UsageError, match=r"`input_shape=` is for FILE\.py:FACTORY; ModelProto contains its shape"):
        open_model(small_cnn(), export=ExportOptions(input_shape=(1, 3, 12, 12)))
    with pytest.raises(UsageError, match=r"`weights=` is for FILE\.py:FACTORY; ModelProto contains its weights"):
        open_model(small_cnn(), export=ExportOptions(weights="w.npz"))


# --- factories where files are measured ------------------------------------------------------------------------------


@pytest.mark.slow
def test_factories_are_measured_and_looked_into(folder: Path) -> None:
    pytest.importorskip("torch")
    seeded = "import torch\ntorch.manual_seed(0)\n" + (folder / "net.py").read_text()
    (folder / "net.py").write_text(seeded)
    assert run("export", "net.py:net", "-o", "net.onnx", *NET).exit_code == 0
    actual = json.loads(
        run("evaluate", "net.py:net", "net.onnx", "--data", "unseen.npz", "--json", *NET, *SCALE).stdout
    )
    assert [model["model"] for model in actual["models"]] == ["net.py:net", "net.onnx"]
    assert actual["models"][1]["agreement"] == 1
    compared = json.loads(
        run("compare", "net.py:net", "net.onnx", "--data", "unseen.npz", "--json", *NET, *SCALE).stdout
    )
    assert (compared["reference"], compared["model"]) == ("net.py:net", "net.onnx")
    assert compared["agreement"] == 1
    inspected = json.loads(run("inspect", "net.py:net", "--json", *NET).stdout)
    assert inspected["model"]["path"] == "net.py:net"
    assert [layer["op"] for layer in inspected["layers"]] == ["Conv", "Gemm"]
    assert not list(Path(tempfile.gettempdir()).glob("convert-onnx-*"))


def test_weights_reach_a_measured_factory(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    weights = {"0.weight": torch.ones(4, 3, 3, 3), "0.bias": torch.ones(4)}
    weights |= {"4.weight": torch.eye(5, 4), "4.bias": torch.arange(5.0)}
    torch.save(weights, "w.pt")
    with model_files(["net.py:net"], export=ExportOptions(weights="w.pt", input_shape=(1, 3, 12, 12))) as (file,):
        constants = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file.path).graph.initializer
        }
        assert np.array_equal(constants["4.bias"], np.arange(5))
    assert not file.path.exists()
    assert (folder / "w.pt").exists()


@pytest.mark.slow
def test_an_assumed_input_shape_is_printed_and_named_in_errors() -> None:
    pytest.importorskip("torch")
    result = run("evaluate", "net.py:net", "--data", "unseen.npz", *SCALE)
    assert result.exit_code == 1
    warning, error = result.stderr.splitlines()
    assert warning == "Warning: inputs are assumed to be 1,3,224,224; --input-shape gives another"
    assert error.endswith("or, since 1,3,224,224 was only assumed, give --input-shape")
    done = run("convert", "net.py:net", "-o", "out.onnx", "--calibration", "calibration.npz", *SCALE)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith("give --input-shape")
    given = run("evaluate", "net.py:net", "--data", "calibration.npz", "--input-shape", "1,3,20,20", *SCALE)
    assert given.exit_code == 1
    assert "assumed" not in given.stderr
