"""Every command reads external data beside the model, and refuses a file that is missing or too short."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import converter
from converter.cli.main import cli
from converter.model_io.save import save_onnx
from tests.support.graphs import array, build, node


@pytest.fixture(scope="module")
def quantized() -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w1"], ["y"])]
    model = build(nodes, {"w0": array(16, 3, 3, 3), "w1": array(16, 16, 3, 3)}, ["n", 3, 8, 8])
    return converter.convert(model, array(32, 3, 8, 8)).model


def external(model: onnx.ModelProto, folder: Path) -> Path:
    """Write the model with every tensor in a file beside it, scales too."""
    folder.mkdir()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(copy, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / "model.onnx"


def test_a_file_of_the_same_name_in_the_current_folder_is_not_read(
    quantized: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(quantized, tmp_path / "model")
    decoy = tmp_path / "elsewhere"
    decoy.mkdir()
    (decoy / "weights.bin").write_bytes(b"\xff" * (path.parent / "weights.bin").stat().st_size)
    monkeypatch.chdir(decoy)
    plain = tmp_path / "plain.onnx"
    save_onnx(quantized, plain)
    assert converter.inspect(path).to_json()["layers"] == converter.inspect(plain).to_json()["layers"]
    for target in ("tensorrt", "mobile"):
        assert converter.verify(path, target).failures == converter.verify(plain, target).failures


@pytest.mark.parametrize("damage", ["missing", "short"])
@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "MODEL"],
        ["verify", "MODEL", "--target", "tensorrt"],
        ["verify", "MODEL", "--target", "cpu"],
        ["convert", "MODEL", "-o", "out.onnx", "--calibration", "data.npz"],
        ["compare", "MODEL", "MODEL", "--data", "data.npz"],
        ["evaluate", "MODEL", "--data", "data.npz"],
    ],
    ids=lambda command: "-".join([command[0], *command[3:4]]) if isinstance(command, list) else None,
)
def test_a_damaged_data_file_is_refused(
    quantized: onnx.ModelProto, command: list[str], damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(quantized, tmp_path / "model")
    data = path.parent / "weights.bin"
    if damage == "missing":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:100])
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "data.npz", x=array(32, 3, 8, 8))
    result = CliRunner().invoke(cli, [str(path) if word == "MODEL" else word for word in command])
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert "bug" not in result.output
    assert not (tmp_path / "out.onnx").exists()
