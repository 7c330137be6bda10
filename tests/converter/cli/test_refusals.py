"""Every bad input ends in one line with the value in it and a non-zero exit code, and leaves no file behind."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.command_line import CONVERT, names, run
from tests.support.models import SIDE, images, make_model, small_cnn

pytestmark = pytest.mark.usefixtures("folder")


def prepare_bad_files() -> None:
    Path("text.onnx").write_text("this is not a model")
    Path("short.onnx").write_bytes(Path("m.onnx").read_bytes()[:-300])
    np.savez("wrong.npz", x=images(4, side=20))
    np.savez("channels.npz", x=np.zeros((4, 5, SIDE, SIDE), np.float32))
    np.savez("empty.npz", x=np.zeros((0, SIDE, SIDE, 3), np.uint8))
    np.savez("nan.npz", x=np.full((4, 3, SIDE, SIDE), np.nan, np.float32))
    np.savez("labels.npz", x=images(4), y=np.array([0, 1, 2, 99]))
    Path("damaged.npz").write_bytes(b"PK\x03\x04 not really")
    Path("nothing").mkdir()
    Path("bad_pass.toml").write_text('[[passes]]\npass = "gptqq"\n')
    Path("bad_field.toml").write_text('[[passes]]\npass = "gptq"\nbit = 4\n')
    Path("bad_value.toml").write_text('[[passes]]\npass = "gptq"\nbits = 40\n')
    Path("a_file").touch()
    relu = helper.make_node("Relu", ["input"], ["output"], "relu")
    shape = {"input": ["n", 3, SIDE, SIDE]}, {"output": ["n", 3, SIDE, SIDE]}
    onnx.save(make_model([relu], {}, inputs=shape[0], outputs=shape[1]), "relu.onnx")
    spoilt = small_cnn()
    weight = next(tensor for tensor in spoilt.graph.initializer if tensor.name == "deep.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(spoilt, "spoilt.onnx")
    weights: dict[str, Any] = {"left.over": np.zeros(3, np.float32)}
    np.savez("w.npz", **weights)


C, CAL = ("convert", "m.onnx", "-o", "out.onnx"), ("--calibration", "calibration.npz")
F = ("convert", "-o", "out.onnx", "--input-shape", "1,3,12,12", *CAL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("convert", "missing.onnx", "-o", "out.onnx", *CAL), ["missing.onnx"], id="missing_model"),
        pytest.param(("convert", "text.onnx", "-o", "out.onnx", *CAL), ["text.onnx", "text"], id="not_onnx"),
        pytest.param(("convert", "short.onnx", "-o", "out.onnx", *CAL), ["short.onnx", "truncated"], id="truncated"),
        pytest.param(
            ("convert", "relu.onnx", "-o", "out.onnx", *CAL),
            ["nothing to quantize", "Conv, ConvTranspose, Gemm, MatMul", "Relu"],
            id="no_layers",
        ),
        pytest.param(
            ("convert", "spoilt.onnx", "-o", "out.onnx", *CAL), ["deep.weight", "NaN", "finite"], id="nan_weight"
        ),
        pytest.param(("inspect", "missing.onnx"), ["missing.onnx"], id="inspect_missing"),
        pytest.param(("inspect", "short.onnx"), ["short.onnx", "truncated"], id="inspect_truncated"),
        pytest.param(("evaluate", "text.onnx", "--data", "unseen.npz"), ["text.onnx"], id="evaluate_not_onnx"),
        pytest.param(("compare", "m.onnx", "short.onnx", "--data", "unseen.npz"), ["short.onnx"], id="compare_short"),
        pytest.param((*F, "net.py:nett"), ["nett", "'net'"], id="no_such_factory"),
        pytest.param((*F, "nowhere.py:net"), ["nowhere.py"], id="no_such_file"),
        pytest.param((*F, "net.py:broken"), ["broken", "no weights on this disk"], id="factory_raises"),
        pytest.param((*F, "net.py:net", "--weights", "w.npz"), ["0.weight", "left.over"], id="weights_do_not_fit"),
        pytest.param((*F, "net.py:net", "--weights", "none.npz"), ["none.npz"], id="no_weights"),
        pytest.param((*C, "--calibration", "missing.npz"), ["missing.npz"], id="no_data"),
        pytest.param((*C, "--calibration", "empty.npz"), ["empty.npz", "no samples"], id="empty_data"),
        pytest.param((*C, "--calibration", "nothing"), ["nothing", "no images"], id="empty_folder"),
        pytest.param((*C, "--calibration", "damaged.npz"), ["damaged.npz"], id="unreadable_data"),
        pytest.param((*C, "--calibration", "channels.npz"), ["channels.npz", "5"], id="wrong_shape"),
        pytest.param((*C, "--calibration", "wrong.npz"), ["20x20", "12x12", "--resize"], id="other_size"),
        pytest.param((*C, "--calibration", "nan.npz"), ["nan.npz", "NaN"], id="nan"),
        pytest.param((*C, *CAL, "--evaluate", "missing.npz"), ["missing.npz"], id="no_evaluation_data"),
        pytest.param((*C, *CAL, "--evaluate", "labels.npz"), ["99", "5 classes"], id="labels_out_of_range"),
        pytest.param(("evaluate", "m.onnx", "--data", "labels.npz"), ["99", "5 classes"], id="evaluate_labels"),
        pytest.param(("convert", "m.onnx", "-o", "gone/out.onnx", *CAL), ["gone"], id="no_output_folder"),
        pytest.param(("convert", "m.onnx", "-o", "nothing", *CAL), ["nothing"], id="output_is_a_folder"),
        pytest.param(("convert", "m.onnx", "-o", "a_file/out.onnx", *CAL), ["a_file"], id="output_below_a_file"),
        pytest.param((*C, *CAL, "--report", "gone/r.json"), ["gone"], id="no_report_folder"),
    ],
)
def test_bad_input_is_one_line(folder: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    refused(folder, arguments, words, exit_code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param((*C, *CAL, "--weights", "w.npz"), ["--weights", "m.onnx"], id="weights_for_onnx"),
        pytest.param(C, ["--calibration"], id="no_calibration"),
        pytest.param((*C, *CAL, "--recipe", "int9"), ["int9", "int8"], id="unknown_recipe"),
        pytest.param((*C, *CAL, "--recipe", "gone.toml"), ["gone.toml"], id="no_recipe_file"),
        pytest.param((*C, *CAL, "--recipe", "bad_pass.toml"), ["gptqq", "'gptq'"], id="unknown_pass"),
        pytest.param((*C, *CAL, "--recipe", "bad_field.toml"), ["'bit'", "'bits'"], id="unknown_field"),
        pytest.param((*C, *CAL, "--recipe", "bad_value.toml"), ["40"], id="bad_value"),
        pytest.param((*C, *CAL, "--recipe", "int4", "--device", "cpu"), ["'int4'", "--device cpu"], id="device_unused"),
        pytest.param(
            (*C, *CAL, "--exclude", "fcc"), ["--exclude fcc: no layer is named 'fcc'; did you mean 'fc'?"], id="exclude"
        ),
        pytest.param(
            (*C, *CAL, "--bits", "stm=8"), ["--bits stm=8: no layer is named 'stm'; did you mean 'stem'?"], id="bits"
        ),
        pytest.param(
            (*C, *CAL, "--exclude", "fcc", "--measure-speed"), ["--exclude fcc: no layer"], id="exclude_and_speed"
        ),
        pytest.param(("recipes", "--show", "int9"), ["int9"], id="show_unknown"),
        pytest.param((*C, *CAL, "--target", "toaster"), ["toaster", "cpu"], id="unknown_target"),
        pytest.param((*C, *CAL, "--crop", "30", "--resize", "20"), ["30", "20"], id="crop_larger_than_resize"),
        pytest.param((*C, *CAL, "--mean", "120,120,120"), ["120", "0..1"], id="mean_of_bytes"),
        pytest.param((*C, *CAL, "--report", "r.txt"), ["r.txt", ".html"], id="report_suffix"),
        pytest.param(("export", "m.onnx", "-o", "out.onnx"), ["m.onnx"], id="export_onnx"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(folder: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    refused(folder, arguments, words, exit_code=2)


def refused(folder: Path, arguments: tuple[str, ...], words: list[str], *, exit_code: int) -> None:
    """One line of error, maybe after warnings, and nothing written."""
    prepare_bad_files()
    files = names(folder)
    result = run(*arguments)
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    *warnings, line = result.stderr.splitlines()
    assert all(warning.startswith("Warning: ") for warning in warnings), result.stderr
    assert line.startswith("Error: ")
    assert "bug" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert names(folder) == files
    assert names(folder.parent / "tmp") == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("convert",), "MODEL", id="no_model"),
        pytest.param(("convert", "m.onnx"), "--output", id="no_output"),
        pytest.param((*C, "--limit", "0"), "0", id="limit"),
        pytest.param(("train", "m.onnx", "-o", "out.onnx", "--data", "x", "--rate", "0"), "--rate", id="rate"),
        pytest.param((*C, "--resize", "big"), "big", id="resize"),
        pytest.param((*C, "--mean", "a,b"), "'a,b'", id="mean"),
        pytest.param((*C, "--input-shape", "1,3,x"), "'1,3,x'", id="shape"),
        pytest.param((*C, "--calibration", ""), "--calibration is empty", id="empty_calibration"),
        pytest.param((*C, "--calibration="), "--calibration is empty", id="empty_calibration_in_one_word"),
        pytest.param((*C, *CAL, "--recipe", ""), "--recipe is empty", id="empty_recipe"),
        pytest.param((*C, *CAL, "--evaluate", ""), "--evaluate is empty", id="empty_evaluation"),
        pytest.param(("convert", "m.onnx", "-o", "", *CAL), "-o is empty", id="empty_output"),
        pytest.param(
            (*C, *CAL, "--bits", "stem=3", "--bits", "stem=4"), "--bits stem=3 and --bits stem=4", id="bits_twice"
        ),
        pytest.param((*C, *CAL, "--exclude", "*"), "--exclude * leaves none of the 4 layers", id="all_excluded"),
        pytest.param(
            (*C, *CAL, "--prune-channels", "most"), "'most' is neither a share such as 0.3 nor auto", id="share"
        ),
        pytest.param(
            (*C, *CAL, "--prune-channels", "1.2"), "--prune-channels 1.2 is no share above 0", id="large_share"
        ),
        pytest.param((*C, "--input-shape", "1,0,4"), "'1,0,4'", id="shape_of_zero"),
        pytest.param((*C, "--calibrate", "x"), "--calibrate", id="unknown_option"),
        pytest.param(("convert", "m.onnx", "-o", "./m.onnx", *CAL), "m.onnx", id="output_is_the_model"),
        pytest.param(("konvert",), "konvert", id="unknown_command"),
        pytest.param(("evaluate", "--data", "x"), "MODEL", id="no_models"),
        pytest.param(("evaluate", "m.onnx"), "--data", id="evaluate_without_data"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_folder_without_permission(folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    result = run("convert", "m.onnx", "-o", "locked/out.onnx", *CAL)
    assert result.exit_code == 1
    assert "locked/out.onnx" in result.stderr


def test_an_existing_file_survives_a_failure(folder: Path) -> None:
    (folder / "out.onnx").write_text("precious")
    assert run(*C, "--calibration", "missing.npz").exit_code == 1
    assert (folder / "out.onnx").read_text() == "precious"


@pytest.mark.usefixtures("unchanged")
def test_a_result_that_fails_verification_is_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("made up\nin two lines")

    monkeypatch.setattr("converter.model_io.save.check_model", refuse)
    result = run(*CONVERT)
    assert result.exit_code == 3
    assert result.stderr == "Error: out.onnx not written: onnx.checker refuses the result: made up\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(
            KeyError("x"), "Error: unexpected KeyError: 'x'; this is a bug: run again with --debug\n", id="bug"
        ),
        pytest.param(
            OSError(28, "No space left on device", "f.bin"), "Error: f.bin: No space left on device\n", id="os"
        ),
        pytest.param(MemoryError(), "Error: out of memory; use fewer samples (--limit)\n", id="memory"),
        pytest.param(
            ValueError("a\n  b"), "Error: unexpected ValueError: a; b; this is a bug: run again with --debug\n"
        ),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_what_nobody_expected_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("converter.pipeline.finish.emit_fused", fail)
    result = run(*CONVERT)
    assert (result.exit_code, result.stderr) == (1, line)


@pytest.mark.parametrize("place", [0, 1, len(C)], ids=["before", "after", "last"])
@pytest.mark.usefixtures("unchanged")
def test_debug_shows_the_traceback(place: int) -> None:
    arguments = [*C, "--calibration", "missing.npz"]
    result = run(*arguments[:place], "--debug", *arguments[place:])
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("Error: missing.npz")
