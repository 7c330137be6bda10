"""The photographs of the demonstration: the two halves share no picture, and the crops are reproducible."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import photographs
from benchmarks.photographs import CALIBRATION, EVALUATION, SIZE, Photograph, calibration_crops, evaluation_crops

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


def scene(photograph: Photograph) -> str:
    """Name the scene of a photograph. Both views of the stereo pair have one scene."""
    return photograph.file.replace("_left", "").replace("_right", "")


def test_halves_share_no_scene() -> None:
    assert {scene(each) for each in CALIBRATION}.isdisjoint(scene(each) for each in EVALUATION)


@pytest.mark.parametrize("half", [CALIBRATION, EVALUATION], ids=["calibration", "evaluation"])
def test_each_half_is_mostly_colour(half: tuple[Photograph, ...]) -> None:
    total = sum(photograph.weight for photograph in half)
    colour = 0
    for photograph in half:
        pixels = np.asarray(photograph.load())
        assert min(pixels.shape[:2]) >= SIZE, f"{photograph.file} is smaller than one crop"
        if np.ptp(pixels.astype(np.int16), axis=2).max() > 0:
            colour += photograph.weight
    assert colour >= 0.7 * total


@pytest.mark.parametrize("draw", [calibration_crops, evaluation_crops])
def test_crops_are_reproducible(draw: photographs.Draw) -> None:
    crops = draw(24)
    assert crops.shape == (24, SIZE, SIZE, 3)
    assert crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, draw(24))
    np.testing.assert_array_equal(crops[:5], draw(5))
    assert not np.array_equal(crops, draw(24, seed=1))
    assert len({crop.tobytes() for crop in crops}) == 24, "two crops are the same"


def test_halves_draw_different_pixels() -> None:
    assert not np.array_equal(calibration_crops(4), evaluation_crops(4))


def test_one_round_holds_each_photograph_as_often_as_its_weight() -> None:
    order = photographs.turns(EVALUATION, np.random.default_rng(0))
    total = sum(photograph.weight for photograph in EVALUATION)
    drawn = [next(order) for _ in range(2 * total)]
    assert np.bincount(drawn).tolist() == [2 * photograph.weight for photograph in EVALUATION]


@pytest.mark.parametrize("size", [(SIZE, SIZE), (SIZE, 300), (500, SIZE + 1)])
def test_crop_stays_inside_the_picture(size: tuple[int, int]) -> None:
    """Crops of a white picture are white. Pixels from outside would be interpolated towards black."""
    white = Image.new("RGB", size, "white")
    rng = np.random.default_rng(0)
    assert all(photographs.crop(white, rng).min() == 255 for _ in range(20))


def test_crops_are_mirrored_about_half_of_the_time() -> None:
    ramp = Image.fromarray(np.tile(np.arange(SIZE, dtype=np.uint8)[None, :, None], (SIZE, 1, 3)))
    rng = np.random.default_rng(0)
    mirrored = sum(bool(crop[0, 0, 0] > crop[0, -1, 0]) for crop in (photographs.crop(ramp, rng) for _ in range(200)))
    assert 70 < mirrored < 130  # 4 standard deviations of a fair coin


def test_no_crops_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        calibration_crops(0)


def test_missing_package_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"'no_such_package'.*install convert-onnx\[demo\]"):
        Photograph("no_such_package", "data/cat.png").load()


def test_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert photographs.main(["--out", str(tmp_path / "new"), "--count", "3"]) == 0
    for name, draw in (("calibration", calibration_crops), ("evaluation", evaluation_crops)):
        with np.load(tmp_path / "new" / f"{name}.npz") as stored:
            np.testing.assert_array_equal(stored["x"], draw(3))
    assert "3 crops of 11 photographs" in capsys.readouterr().out


def test_command_refuses_no_crops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        photographs.main(["--out", str(tmp_path / "new"), "--count", "0"])
    assert "--count 0: ask for at least one crop" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
