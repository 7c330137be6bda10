"""Labels without a class in the model are refused before any work. The error has the user's own names."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from converter import convert
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.data.labels import Classes, model_classes
from passes.errors import DataError
from tests.support.command_line import CONVERT, SCALE, run
from tests.support.models import SIDE, images, small_cnn

pytestmark = pytest.mark.usefixtures("folder")


def outputs(*shape: int | str | None) -> onnx.ModelProto:
    model = small_cnn()
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, list(shape)))
    return model


@pytest.mark.parametrize(
    ("shape", "count"),
    [(("n", 5), 5), ((1, 5, 1, 1), 5), (("n", "c"), None), (("n", 5, 7, 7), None), ((5,), None), (("n", None), None)],
)
def test_the_number_of_classes_comes_from_the_output_shape(
    shape: tuple[int | str | None, ...], count: int | None
) -> None:
    assert model_classes(outputs(*shape), "m") == (None if count is None else Classes("m", count))


@pytest.mark.usefixtures("unchanged")
def test_convert_refuses_bad_labels_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr("converter.calibration.statistics.open_session", worked)
    np.savez("labels.npz", x=images(40), y=np.array([0] * 37 + [99, 4, 98]))
    for command in ((*CONVERT, "--evaluate", "labels.npz"), ("evaluate", "m.onnx", "--data", "labels.npz", *SCALE)):
        result = run(*command)
        assert result.exit_code == 1
        assert "labels.npz: label 99 of sample 37 is out of range: " in result.stderr
        assert "has 5 classes (0..4)" in result.stderr
        assert "/tmp" not in result.stderr
    Path("labels.npz").unlink()


def test_the_image_is_the_one_in_the_file_whatever_the_limit() -> None:
    data = images(40), np.array([0] * 39 + [5])
    with pytest.raises(DataError, match=r"data: label 5 of sample 39 is out of range: m has 5 classes \(0\.\.4\)"):
        load_data(data, input_specs(small_cnn()), limit=2, classes=Classes("m", 5))


def test_images_in_class_folders_are_named(folder: Path) -> None:
    for label in ("0", "7"):
        (folder / "set" / label).mkdir(parents=True)
        Image.fromarray(images(1)[0]).save(folder / "set" / label / "a.png")
    result = run("evaluate", "m.onnx", "--data", "set", *SCALE)
    assert result.exit_code == 1
    assert "set: label 7 of set/7/a.png is out of range: m.onnx has 5 classes" in result.stderr


def test_a_dataset_is_checked_too() -> None:
    data: Dataset = load_data((images(4), np.array([0, 9, 1, 1])), input_specs(small_cnn()))
    with pytest.raises(DataError, match="label 9 of sample 1"):
        convert(small_cnn(), images(32), evaluation=data)


def test_without_a_known_output_shape_the_model_is_run(folder: Path) -> None:
    onnx.save(outputs("n", "c"), folder / "m.onnx")
    np.savez("labels.npz", x=images(20, side=SIDE), y=np.array([0] * 19 + [99]))
    result = run(*CONVERT, "--evaluate", "labels.npz")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: labels.npz: label 99 of sample 19 is out of range: float has 5 classes (0..4); "
        "use the labels that the model was trained on\n"
    )
