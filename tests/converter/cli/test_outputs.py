"""Results never go onto each other or onto what was read, and what is said of them is so."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter.cli.outputs import check_outputs
from passes.errors import UsageError
from tests.support.command_line import CONVERT, SCALE, names, run

pytestmark = pytest.mark.usefixtures("folder")

DATA = """
import numpy as np

def batches(count=32):
    yield np.zeros((count, 3, 12, 12), np.float32)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("m.onnx", "-o", "m.onnx", "--calibration", "calibration.npz"), ["-o", "MODEL"]),
        (("m.onnx", "-o", "./m.onnx", "--calibration", "calibration.npz"), ["-o", "MODEL"]),
        (("m.onnx", "-o", "link.onnx", "--calibration", "calibration.npz"), ["-o link.onnx", "MODEL m.onnx"]),
        (("net.py:net", "-o", "net.py", "--calibration", "calibration.npz"), ["-o", "MODEL net.py:net"]),
        (("m.onnx", "-o", "calibration.npz", "--calibration", "calibration.npz"), ["-o", "--calibration"]),
        (("m.onnx", "-o", "data.py", "--calibration", "data.py:batches(count=3)"), ["-o", "--calibration data.py"]),
        (("m.onnx", "-o", "unseen.npz", "--evaluate", "unseen.npz"), ["-o", "--evaluate"]),
        (("net.py:net", "-o", "w.npz", "--weights", "w.npz"), ["-o", "--weights"]),
        (("m.onnx", "-o", "mine.toml", "--recipe", "mine.toml"), ["-o", "--recipe"]),
        (("m.onnx", "-o", "r.json", "--report", "r.json"), ["-o", "--report"]),
        (("m.onnx", "-o", "o.onnx", "--report", "r.json", "--report", "./r.json"), ["--report", "one file"]),
        (("m.onnx", "-o", "o.onnx", "--report", "data.json", "--calibration", "data.json"), ["--report", "--calibr"]),
    ],
)
def test_convert_refuses_to_overwrite(folder: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    (folder / "link.onnx").symlink_to("m.onnx")
    for name in ("mine.toml", "data.json", "w.npz", "data.py"):
        (folder / name).touch()
    before = contents(folder)
    result = run("convert", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net.py:net", "-o", "net.py"), ["-o", "MODEL"]),
        (("net.py:net", "-o", "w.npz", "--weights", "w.npz"), ["-o", "--weights"]),
        (("net.py:net", "-o", "out"), ["-o out", "use out.onnx"]),
    ],
)
def test_export_refuses_to_overwrite(folder: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    (folder / "w.npz").touch()
    before = contents(folder)
    result = run("export", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert all(word in result.stderr for word in words), result.stderr
    assert contents(folder) == before


def test_a_hard_link_is_the_same_file(folder: Path) -> None:
    (folder / "other.onnx").hardlink_to(folder / "m.onnx")
    with pytest.raises(UsageError, match=r"-o other\.onnx would overwrite MODEL m\.onnx"):
        check_outputs([("-o", Path("other.onnx"))], [("MODEL", "m.onnx")])
    check_outputs([("-o", Path("out.onnx"))], [("MODEL", "m.onnx"), ("--calibration", None), ("--recipe", "int8")])


@pytest.mark.parametrize("name", ["out", "out.tflite"])
@pytest.mark.usefixtures("unchanged")
def test_an_onnx_file_is_called_so(name: str) -> None:
    result = run("convert", "m.onnx", "-o", name, "--calibration", "calibration.npz")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"use {name}.onnx" in result.stderr


def test_several_reports(folder: Path) -> None:
    result = run(*CONVERT, "--report", "r.json", "--report", "r.html")
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("Wrote r.")] == [
        "Wrote r.json",
        "Wrote r.html",
    ]
    assert {"r.json", "r.html"} <= names(folder)


def test_the_report_is_strict_json_with_all_that_the_conversion_came_from(folder: Path) -> None:
    model = onnx.load("m.onnx")
    for tensor in model.graph.initializer:  # weights that 8 bits hold exactly: an infinite SQNR
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(tensor.dims, np.float32), tensor.name))
    onnx.save(model, "m.onnx")
    result = run(*CONVERT, "--report", "r.json", "--recipe", "int8", "--seed", "7", "--evaluate", "unseen.npz")
    assert result.exit_code == 0, result.output

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = (folder / "r.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert str(folder.parent / "tmp") not in text, "temporary paths name no models"
    assert [model["model"] for model in content["metrics"]["models"]] == ["float", "int8"]
    first, second = content["metrics"]["latency"].pop("speedup_quartiles")
    assert (first, second[0] <= second[1]) == ([1, 1], True)
    assert content["metrics"]["latency"] == {"batch": 1, "threads": 1}
    assert content["calibration"]["source"] == "calibration.npz"
    assert len(content["calibration"]["sha256"]) == 64
    assert content["recipe"]["seed"] == 7
    assert content["recipe"]["preprocess"] == {"mean": [0.5], "std": [0.25], "resize": None, "crop": None}
    assert content["recipe"]["passes"][-1]["pass"] == "rtn"
    assert content["recipe"]["passes"][-1]["block_size"] is None
    assert None in [layer["after_db"] for layer in content["layers"]]
    assert {"onnxruntime", "convert-onnx"} <= set(content["versions"])


def test_a_model_without_its_report_is_said_to_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("converter.report.files.write_text", fail)
    result = run(*CONVERT, "--report", "r.json")
    assert result.exit_code == 1
    assert "Wrote out.onnx" in result.stdout
    assert "r.json" not in result.stdout
    assert "nothing" not in result.stderr
    assert names(folder) >= {"out.onnx"}


def test_quiet_prints_the_evaluation_that_was_asked_for() -> None:
    quiet = run(*CONVERT, "--quiet", "--evaluate", "unseen.npz")
    assert "Top-1" in quiet.stdout
    assert "lowest SQNR" not in quiet.stdout
    assert "Top-1" not in run(*CONVERT, "--quiet").stdout
    assert "SQNR" in run("evaluate", "m.onnx", "m.onnx", "--data", "unseen.npz", "--quiet", *SCALE).stdout
