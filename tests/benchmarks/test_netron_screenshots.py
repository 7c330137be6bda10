"""Pictures of Netron, if there is a browser: the graph is drawn with the names of the layers."""

import shutil
import struct
from pathlib import Path

import onnx
import pytest

from benchmarks.netron_screenshots import main, opened, photograph
from tests.support.models import small_cnn


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on the path")
def test_a_graph_is_photographed(tmp_path: Path) -> None:
    pytest.importorskip("netron")
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    sizes = []
    with opened("chromium") as browser:
        for names in (False, True):
            picture = tmp_path / f"{names}.png"
            photograph(browser, tmp_path / "m.onnx", picture, names=names)
            content = picture.read_bytes()
            assert content.startswith(b"\x89PNG")
            sizes.append(struct.unpack(">II", content[16:24]))
            shown = browser.evaluate("[...document.querySelectorAll('.node text')].map(each => each.textContent)")
            assert ("stem" in shown, "Conv" in shown) == (names, not names)
    assert min(sizes[0]) > 100


def test_a_missing_browser_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--browser", "no-such-browser", "--out", str(tmp_path / "out")]) == 1
    assert "no browser 'no-such-browser' on the path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
