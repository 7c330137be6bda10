"""Files that packages ship, and files on the disk."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.shipped.__main__ import main
from benchmarks.shipped.files import fetch, image_model
from tests.support.graphs import array, build, node


def written(folder: Path, shape: tuple[int | str, ...]) -> Path:
    nodes = [node("Conv", ["x", "w"], ["y"], name="layer")]
    onnx.save(build(nodes, {"w": array(4, int(shape[1]), 3, 3)}, shape), folder / "net.onnx")
    return folder / "net.onnx"


def test_a_file_on_the_disk_gets_photographs(tmp_path: Path) -> None:
    path = written(tmp_path, ("n", 3, 16, "w"))
    file = image_model(path)
    assert (file.name, fetch(file)) == ("net", path)
    first, second = file.samples(2, 0)
    assert first["x"].shape == (1, 3, 16, 224)
    assert not np.array_equal(first["x"], second["x"])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a model of one image with three channels"):
        image_model(written(tmp_path, ("n", 4, 16, 16)))


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "nothing: no such file; there are: ppocr-det" in capsys.readouterr().err
