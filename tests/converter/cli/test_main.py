"""Every command of the command line, inside a test and as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter.display import words
from converter.recipes.builtin import RECIPES, find_recipe
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.errors import OutputError
from passes.weights.learned_rounding import LearnedRounding
from tests.support.command_line import CONVERT, ROOT, names, process, run, start
from tests.support.models import SIDE, images

pytestmark = pytest.mark.usefixtures("folder")

SLEEPER = """
import time
from pathlib import Path

import numpy as np

def batches():
    yield np.zeros((4, 3, 12, 12), np.float32)
    Path(__file__).with_name("started").touch()
    time.sleep(60)
"""


def test_convert_prints_what_changed(folder: Path) -> None:
    result = run(*CONVERT, "--recipe", "int4", "--evaluate", "unseen.npz", "--seed", "3", "--limit", "32")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    judged = (words.FILE_SIZE, words.TOP1, words.AGREEMENT, words.SQNR, words.LATENCY)
    for said in (*judged, "4 bits", "16 images", "Wrote out.onnx (int4, cpu)"):
        assert said in result.stdout
    metadata = {entry.key: entry.value for entry in onnx.load("out.onnx").metadata_props}
    recipe = find_recipe("out.onnx")
    assert (recipe.name, recipe.seed, recipe.limit) == ("int4", 3, 32)
    assert json.loads(metadata["convert_onnx.calibration"])["images"] == 32
    assert names(folder.parent / "tmp") == set()


def test_quiet_convert_prints_the_file_and_its_verdict(folder: Path) -> None:
    result = run(*CONVERT, "--quiet")
    assert result.stdout.startswith("Wrote out.onnx (int8, cpu) in ")
    questions = [line.partition("?")[0] for line in result.output.splitlines()[1:]]
    assert questions == ["Accurate enough", "Smaller", "Faster here"]
    assert (folder / "out.onnx").exists()


def test_a_closed_pipe_loses_no_result(folder: Path) -> None:
    """Nothing can be printed, and everything that was computed is on the disk."""
    command = [sys.executable, "-m", "converter", *CONVERT, "--report", "r.json", "--report", "r.html"]
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120)
    os.close(writer)
    assert b"Traceback" not in ended.stderr
    assert {"out.onnx", "r.json", "r.html"} <= names(folder)


def test_one_report_that_fails_does_not_take_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("r.json: no space left on the disk")

    monkeypatch.setattr("converter.report.files.indented_json", full)
    result = run(*CONVERT, "--report", "r.json", "--report", "r.html")
    assert result.exit_code == 1
    assert "Error: r.json: no space left on the disk; out.onnx, r.html are written" in result.output
    assert {"out.onnx", "r.html"} <= names(folder)


def test_convert_writes_reports(folder: Path) -> None:
    assert run(*CONVERT, "--report", "r.json", "--evaluate", "unseen.npz").exit_code == 0
    content = json.loads((folder / "r.json").read_text())
    assert content["bytes"] == {
        "before": (folder / "m.onnx").stat().st_size,
        "after": (folder / "out.onnx").stat().st_size,
    }
    assert [layer["name"] for layer in content["layers"]] == ["stem", "deep", "up", "fc"]
    assert content["metrics"]["models"][1]["images"] == 16
    assert run(*CONVERT, "--report", "r.html").exit_code == 0
    assert "stem" in (folder / "r.html").read_text()


def test_layers_left_in_float_are_printed_with_the_reason(folder: Path) -> None:
    (folder / "some.toml").write_text(
        '[[passes]]\npass = "normalise"\n\n[[passes]]\npass = "exclude"\nlayers = ["fc"]\n\n[[passes]]\npass = "rtn"\n'
    )
    result = run("convert", "m.onnx", "-o", "out.onnx", "--recipe", "some.toml", "--calibration", "calibration.npz")
    assert result.exit_code == 0, result.output
    assert "Left in float" in result.stdout
    found = {layer["name"]: layer for layer in json.loads(run("inspect", "out.onnx", "--json").stdout)["layers"]}
    assert found["fc"]["weight_bits"] == 32
    assert found["fc"]["reason"] in result.stdout
    assert found["stem"]["weight_bits"] == 8


def test_evaluating_on_the_calibration_data_is_warned_of() -> None:
    result = run(*CONVERT, "--evaluate", "./calibration.npz")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: ./calibration.npz is used to calibrate and to evaluate")


def test_preprocessing_goes_into_the_model_and_comes_back() -> None:
    np.savez("large.npz", x=images(8, side=20), y=np.zeros(8, int))
    flags = ("--mean", "0.4,0.5,0.6", "--std", "0.2", "--resize", "16", "--crop", str(SIDE))
    flags = (*flags[:3], "0.2,0.2,0.2", *flags[4:])
    result = run("convert", "m.onnx", "-o", "out.onnx", "--calibration", "large.npz", *flags)
    assert result.exit_code == 0, result.output
    from_metadata = run("evaluate", "m.onnx", "out.onnx", "--data", "large.npz", "--json")
    from_flags = run("evaluate", "m.onnx", "out.onnx", "--data", "large.npz", "--json", *flags)
    assert from_metadata.exit_code == from_flags.exit_code == 0, from_metadata.output
    figures = [[model["sqnr_db"] for model in json.loads(r.stdout)["models"]] for r in (from_metadata, from_flags)]
    assert figures[0] == figures[1]
    assert run("evaluate", "m.onnx", "--data", "large.npz").exit_code == 1


def test_models_with_different_preprocessing_are_not_measured_together() -> None:
    for name, mean in (("a.onnx", "0.1"), ("b.onnx", "0.2")):
        assert run("convert", "m.onnx", "-o", name, "--calibration", "unseen.npz", "--mean", mean).exit_code == 0
    result = run("evaluate", "a.onnx", "b.onnx", "--data", "unseen.npz")
    assert result.exit_code == 1
    assert "a.onnx and b.onnx store different preprocessing" in result.stderr
    assert run("evaluate", "a.onnx", "b.onnx", "--data", "unseen.npz", "--mean", "0.3").exit_code == 0


def test_evaluate_json_has_the_contract_s_keys(folder: Path) -> None:
    result = run("evaluate", "m.onnx", "m.onnx", "--data", "unseen.npz", "--json")
    content = json.loads(result.stdout)
    assert set(content) == {"data", "latency", "metric", "models"}
    keys = {"model", "bytes", "images", "top1", "agreement", "sqnr_db", "latency_ms", "speedup"}
    keys |= {"outputs", "metric"}
    assert set(content["latency"]) == {"batch", "threads", "speedup_quartiles"}
    assert all(set(model) == keys for model in content["models"])
    assert content["models"][0]["bytes"] == (folder / "m.onnx").stat().st_size


def test_compare() -> None:
    assert run(*CONVERT).exit_code == 0
    result = run("compare", "m.onnx", "out.onnx", "--data", "unseen.npz", "--limit", "8")
    assert result.exit_code == 0
    assert "end to end" in result.stdout
    content = json.loads(run("compare", "m.onnx", "out.onnx", "--data", "unseen.npz", "--json").stdout)
    assert {row["layer"] for row in content["layers"]} >= {"up", "fc"}


def test_inspect() -> None:
    table, content = run("inspect", "m.onnx"), json.loads(run("inspect", "m.onnx", "--json").stdout)
    assert table.exit_code == 0
    for layer in content["layers"]:
        assert layer["name"] in table.stdout
        assert f"{layer['bytes']:,}" in table.stdout


@pytest.mark.slow
def test_what_learning_came_to_is_said(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    recipe = tmp_path / "learned.toml"
    steps = (*find_recipe("int4").passes, LearnedRounding(steps=2, batch=8))
    recipe.write_text(dump_recipe(replace(find_recipe("int4"), name="learned", passes=steps)))
    result = run(*CONVERT, "--recipe", str(recipe))
    assert result.exit_code == 0, result.output
    assert re.search(
        r"^learned_rounding: \d+ of \d+ layers learned; 2 steps per block on c", result.stdout, re.MULTILINE
    )
    assert "learned_rounding" not in run(*CONVERT, "--recipe", str(recipe), "--quiet").stdout


def test_recipes() -> None:
    listed = run("recipes").stdout
    for name, recipe in RECIPES.items():
        assert name in listed
        assert parse_recipe(run("recipes", "--show", name).stdout, "shown") == recipe


def test_targets() -> None:
    assert "cpu" in run("targets").stdout


def test_export_prints_parity() -> None:
    pytest.importorskip("torch")
    result = run("export", "net.py:net(num_classes=7)", "-o", "out.onnx", "--input-shape", "1,3,12,12")
    assert result.exit_code == 0, result.output
    assert "Parity: max |onnxruntime - torch|" in result.stdout
    assert onnx.load("out.onnx").graph.output[0].type.tensor_type.shape.dim[1].dim_value == 7


def test_convert_takes_a_factory() -> None:
    pytest.importorskip("torch")
    arguments = ("--input-shape", "1,3,12,12", "--calibration", "calibration.npz", "--evaluate", "unseen.npz")
    result = run("convert", "net.py:net", "-o", "out.onnx", *arguments)
    assert result.exit_code == 0, result.output
    layers = json.loads(run("inspect", "out.onnx", "--json").stdout)["layers"]
    assert [layer["fused"] for layer in layers] == [True, True]


def test_help_and_version() -> None:
    for command in ("convert", "export", "evaluate", "compare", "inspect", "recipes", "targets"):
        assert command in run("--help").stdout
        assert run(command, "--help").exit_code == 0
    assert run("--version").stdout.startswith("convert-onnx ")


# --- as a process ----------------------------------------------------------------------------------------------------


def test_a_process_is_plain_in_a_pipe() -> None:
    done = process(*CONVERT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert any(line.startswith("Wrote out.onnx") for line in done.stdout.splitlines())


@pytest.mark.usefixtures("unchanged")
def test_a_process_that_fails() -> None:
    done = process("inspect", "missing.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_a_stream_that_cannot_show_box_characters() -> None:
    done = process("inspect", "m.onnx", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "stem" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "onnx", "onnxruntime", "rich"}
    code = f"import sys, converter.cli.main; sys.exit(', '.join({heavy} & {{*sys.modules}}) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr


@pytest.mark.parametrize("library", ["click", "numpy", "onnxruntime"])
def test_ctrl_c_while_libraries_load(folder: Path, library: str) -> None:
    """A library that is interrupted as it loads stands for a user who is quick with Ctrl-C."""
    (folder / "early").mkdir()
    (folder / "early" / f"{library}.py").write_text("raise KeyboardInterrupt\n")
    root = str(Path(__file__).parents[3])
    done = process(*CONVERT, PYTHONPATH=os.pathsep.join([str(folder / "early"), root]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "Interrupted\n"), (signal.SIGTERM, 143, "Terminated\n")],
    ids=["ctrl_c", "sigterm"],
)
def test_a_signal_leaves_nothing(folder: Path, number: signal.Signals, code: int, words: str) -> None:
    """Sent while the calibration data are being read: a spool file is open and the output has been looked at."""
    (folder / "sleeper.py").write_text(SLEEPER)
    files = names(folder)
    arguments = ["convert", "m.onnx", "-o", "out.onnx", "--calibration", "sleeper.py:batches", "--report", "r.json"]
    child = start(*arguments)
    end = time.monotonic() + 60
    while not (folder / "started").exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    (folder / "started").unlink()
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=60)
    assert (child.returncode, stdout, stderr) == (code, "", words)
    assert names(folder) == files
    assert names(folder.parent / "tmp") == set()
