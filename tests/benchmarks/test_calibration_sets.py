"""Images that calibrate: what is drawn, and that the files of the draws are measured."""

import numpy as np
import pytest

from benchmarks import calibration_sets
from benchmarks.calibration_sets import Draw, drawn, files_of, shown
from converter.data.preprocess import Preprocess
from converter.runtime.session import no_progress
from tests.support.judged_network import JudgedNetwork


def _draws() -> dict[str, Draw]:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 200, (40, 12, 12, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    pixels[:, 0, 0, 0] = labels
    other = draw.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    return {each.what: each for each in drawn(pixels, labels, other)}


def test_kinds_of_images() -> None:
    found = _draws()
    assert {what: [len(one) for one in each.sets] for what, each in found.items()} == {
        "8 images": [8] * 3,
        "16 images": [16] * 3,
        "32 images": [32] * 3,
        "10 images of one class": [10] * 3,
        "40 images, flipped and moved to 160": [160] * 3,
        "20 road signs": [20] * 3,
        "40 images of noise": [40] * 3,
    }
    assert all(one.shape[1:] == (12, 12, 3) and one.dtype == np.uint8 for each in found.values() for one in each.sets)
    one, other, _ = found["8 images"].sets
    assert not np.array_equal(one, other)
    assert [len(set(one[:, 0, 0, 0])) for one in found["10 images of one class"].sets] == [1] * 3
    turned = found["40 images, flipped and moved to 160"].sets[0]
    assert len(np.unique(turned, axis=0)) > 100


def test_what_the_command_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--draws", "0"], "--draws and --images must be at least 1"),
        (["--kinds", "(8"], "--kinds '(8' is no regular expression"),
        (["--solvers", "obq"], "invalid choice: 'obq'"),
    ):
        with pytest.raises(SystemExit):
            calibration_sets.main(arguments)
        assert expected in capsys.readouterr().err
    monkeypatch.setenv("CONVERT_ONNX_DATA", "/nowhere")
    assert calibration_sets.main([]) == 1
    assert "set CONVERT_ONNX_DATA" in capsys.readouterr().err


def test_files_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(JudgedNetwork):
        preprocess = Preprocess()

    monkeypatch.setattr(calibration_sets, "NETWORK", Network())
    model = Network().model()
    _, evaluation = Network().images(model, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 12, 3), dtype=np.uint8)
    db, top1 = files_of(
        model, calibration_sets.SOLVERS["rtn"], Draw("12 images", tuple(pixels)), evaluation, no_progress
    )
    assert len(db) == len(top1) == 2
    assert db[0] != db[1]
    assert min(db) > 5
    assert shown([1.0, 3.0]) == "2.00 ± 1.41"
    assert shown([2.0]) == "2.00"
