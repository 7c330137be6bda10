"""Preprocessing that may not do what the user expects is refused, or gives a warning."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from converter import convert
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.data.preprocess import Preprocess, stored_preprocess
from converter.recipes.recipe import Recipe
from passes.errors import UsageError
from passes.weights.rtn import Rtn
from tests.support.command_line import CONVERT, SCALE, run
from tests.support.models import SIDE, images, small_cnn

pytestmark = pytest.mark.usefixtures("folder")

OUT = ("-o", "out.onnx")
DIVIDED = "pixels are only divided by 255"


def save_tensors(count: int = 32) -> None:
    np.savez("tensors.npz", x=np.random.default_rng(0).standard_normal((count, 3, SIDE, SIDE), dtype=np.float32))


@pytest.mark.parametrize("option", [("--mean", "0.5"), ("--std", "0.5"), ("--resize", "12"), ("--crop", "12")])
@pytest.mark.parametrize("command", ["convert", "evaluate", "compare"])
def test_options_without_effect_are_refused(option: tuple[str, str], command: str) -> None:
    save_tensors()
    arguments = {
        "convert": ("m.onnx", *OUT, "--calibration", "tensors.npz"),
        "evaluate": ("m.onnx", "--data", "tensors.npz"),
        "compare": ("m.onnx", "m.onnx", "--data", "tensors.npz"),
    }
    result = run(command, *arguments[command], *option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{option[0]} would have no effect: tensors.npz holds tensors" in result.stderr


def test_preprocessing_in_the_file_or_recipe_does_not_affect_tensors() -> None:
    save_tensors()
    assert run(*CONVERT).exit_code == 0
    assert run("evaluate", "m.onnx", "out.onnx", "--data", "tensors.npz").exit_code == 0
    mixed = run("convert", "m.onnx", *OUT, "--calibration", "tensors.npz", "--evaluate", "unseen.npz", *SCALE)
    assert mixed.exit_code == 0, "the options are for the evaluation data"


def one_channel() -> onnx.ModelProto:
    grey = small_cnn()
    grey.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    weight = onnx.numpy_helper.from_array(np.ones((8, 1, 3, 3), np.float32), "stem.weight")
    next(t for t in grey.graph.initializer if t.name == "stem.weight").CopyFrom(weight)
    return grey


def test_a_mean_that_does_not_fit_the_channels_is_refused() -> None:
    grey = one_channel()
    onnx.save(grey, "grey.onnx")
    np.savez("grey.npz", x=images(32)[..., :1])
    save_tensors()
    for data in ("grey.npz", "unseen.npz"):
        result = run("convert", "grey.onnx", *OUT, "--calibration", data, "--mean", "0.1,0.2,0.3")
        assert result.exit_code == 2
        assert "mean has 3 values" in result.stderr
        assert "takes 1 channels" in result.stderr
    with pytest.raises(UsageError, match="mean has 3 values"):
        convert(grey, recipe=Recipe("r", "", (Rtn(bits=8),)), preprocess=Preprocess(mean=(0.1, 0.2, 0.3)))


def test_a_mean_that_does_not_fit_the_stored_std_is_refused() -> None:
    scale = ("--mean", "0.1,0.2,0.3", "--std", "0.2,0.2,0.2")
    assert run("convert", "m.onnx", *OUT, "--calibration", "calibration.npz", *scale).exit_code == 0
    result = run("evaluate", "out.onnx", "--data", "unseen.npz", "--mean", "0.5")
    assert result.exit_code == 2
    message = "Error: mean 0.5 and std 0.2,0.2,0.2 are 1 and 3 numbers; give both 1 or both 3"
    assert result.stderr == f"{message} (std is stored and --std replaces it)\n"
    result = run(
        "convert", "out.onnx", "-o", "again.onnx", "--calibration", "unseen.npz", "--crop", "8", "--resize", "4"
    )
    assert (result.exit_code, "is stored" in result.stderr) == (2, False)


def test_grey_images_for_a_colour_model_give_one_warning() -> None:
    grey = images(32)[..., :1]
    np.savez("grey.npz", x=grey)
    Path("folder").mkdir()
    for index, image in enumerate(grey[..., 0]):
        Image.fromarray(image).save(f"folder/{index:02}.png")
    message = "the images are grey; each of the model's 3 channels gets the same pixels\n"
    result = run("convert", "m.onnx", *OUT, "--calibration", "grey.npz", "--evaluate", "folder", *SCALE)
    assert (result.exit_code, result.stderr) == (0, f"Warning: grey.npz: {message}")
    assert run("evaluate", "out.onnx", "--data", "folder").stderr == f"Warning: folder: {message}"
    ((batch,),) = ([*load_data("grey.npz", input_specs(onnx.load("m.onnx"))).batches(32)],)
    assert np.array_equal(batch.feeds["input"][:, 0], batch.feeds["input"][:, 2])
    Image.fromarray(images(1)[0]).save("folder/00.png")
    assert run("evaluate", "out.onnx", "--data", "folder").stderr == "", "one of them has colours"


def test_coloured_images_for_a_grey_model_give_a_warning() -> None:
    onnx.save(one_channel(), "grey.onnx")
    result = run("evaluate", "grey.onnx", "--data", "unseen.npz", "--mean", "0")
    message = "the images are coloured and the model takes one channel; it gets their brightness"
    assert (result.exit_code, result.stderr) == (0, f"Warning: unseen.npz: {message}\n")


def test_unscaled_pixels_give_a_warning() -> None:
    bare = run("convert", "m.onnx", *OUT, "--calibration", "calibration.npz")
    assert bare.exit_code == 0
    assert bare.stderr.count("\n") == 1
    assert bare.stderr.startswith(f"Warning: calibration.npz: {DIVIDED}; give the --mean and --std")
    for command in (("evaluate", "m.onnx", "out.onnx"), ("compare", "m.onnx", "out.onnx")):
        assert DIVIDED in run(*command, "--data", "unseen.npz").stderr, "all null is stored: none"
        assert run(*command, "--data", "unseen.npz", "--mean", "0").stderr == ""
    assert run(*CONVERT).stderr == ""
    assert run("evaluate", "m.onnx", "out.onnx", "--data", "unseen.npz").stderr == "", "stored in out.onnx"


def test_stored_preprocessing_without_values_is_ignored() -> None:
    bare = run("convert", "m.onnx", "-o", "bare.onnx", "--calibration", "calibration.npz")
    assert bare.exit_code == 0
    assert run(*CONVERT).exit_code == 0
    result = run("evaluate", "bare.onnx", "out.onnx", "--data", "unseen.npz", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["data"]["preprocess"] == {
        "mean": [0.5],
        "std": [0.25],
        "resize": None,
        "crop": None,
    }


def test_the_preprocessing_used_is_printed() -> None:
    assert "preprocessing: mean 0.5, std 0.25" in run(*CONVERT, "--evaluate", "unseen.npz").stdout
    assert "preprocessing: mean 0.5, std 0.25" in run("evaluate", "m.onnx", "out.onnx", "--data", "unseen.npz").stdout
    compared = run("compare", "m.onnx", "out.onnx", "--data", "unseen.npz").stdout
    assert any(line.split() == ["preprocessing", "mean", "0.5,", "std", "0.25"] for line in compared.splitlines())
    assert "preprocessing: pixels / 255" in run("evaluate", "m.onnx", "--data", "unseen.npz").stdout
    save_tensors()
    assert "preprocessing: none" in run("evaluate", "m.onnx", "--data", "tensors.npz").stdout


def test_export_stores_preprocessing_and_convert_inherits_it() -> None:
    pytest.importorskip("torch")
    shape = ("--input-shape", f"1,3,{SIDE},{SIDE}")
    assert run("export", "net.py:net", "-o", "net.onnx", *shape, *SCALE).exit_code == 0
    assert stored_preprocess(onnx.load("net.onnx")) == Preprocess(mean=(0.5,), std=(0.25,))
    done = run("convert", "net.onnx", *OUT, "--calibration", "calibration.npz", "--std", "0.5")
    assert (done.exit_code, done.stderr) == (0, "")
    assert stored_preprocess(onnx.load("out.onnx")) == Preprocess(mean=(0.5,), std=(0.5,))
    assert run("export", "net.py:net", "-o", "plain.onnx", *shape).exit_code == 0
    assert stored_preprocess(onnx.load("plain.onnx")) == Preprocess()
    assert run("export", "net.py:net", "-o", "plain.onnx", *shape, "--std", "0").exit_code == 2


def test_few_images_give_a_warning_with_their_number() -> None:
    few = run(*CONVERT, "--limit", "31")
    assert few.stderr.startswith("Warning: calibration.npz: only 31 images calibrate")
    assert "calibrated on 31 images" in few.stdout
    Path("plain.toml").write_text('[[passes]]\npass = "rtn"\n')
    assert run(*CONVERT, "--limit", "31", "--recipe", "plain.toml").stderr == "", "it looks at no image"
    enough = run(*CONVERT)
    assert enough.stderr == ""
    assert "calibrated on 32 images" in enough.stdout
