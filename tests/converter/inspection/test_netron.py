"""view: Netron shows a file if it is installed. If not, the error is one line."""

import re
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import onnx
import pytest

from converter.inspection.netron import view
from passes.errors import OutputError
from tests.support.command_line import run, start

pytestmark = pytest.mark.usefixtures("folder")


def fetched(address: str) -> str:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return str(answer.read().decode())


def test_the_page_is_served_until_the_block_ends() -> None:
    pytest.importorskip("netron")
    with view(Path("m.onnx"), browse=False) as address:
        assert re.fullmatch(r"http://localhost:\d+", address)
        assert "Netron" in fetched(address)
    with pytest.raises(OSError, match=r"refused|reset"):
        fetched(address)


def test_a_port_in_use_is_refused() -> None:
    pytest.importorskip("netron")
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(OutputError, match=f"port {port} cannot be opened"),
            view(Path("m.onnx"), port=port, browse=False),
        ):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_it() -> None:
    pytest.importorskip("netron")
    child = start("view", "m.onnx", "--no-browser")
    assert child.stdout is not None
    line = child.stdout.readline()
    match = re.fullmatch(r"m\.onnx is at (http://localhost:\d+); Ctrl-C ends it\n", line)
    assert match is not None, line
    assert "Netron" in fetched(match[1])
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout, stderr) == (0, "", "")


def test_netron_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netron", None)
    done = run("view", "m.onnx")
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: Netron is not installed; pip install convert-onnx[view], or drop the file on https://netron.app\n"
    )


def test_a_model_in_memory_is_shown_too() -> None:
    pytest.importorskip("netron")
    with view(onnx.load("m.onnx"), browse=False) as address:
        assert "Netron" in fetched(address)


@pytest.mark.parametrize(("name", "code"), [("missing.onnx", 1), ("net.py", 2)])
def test_a_file_that_is_no_model_is_refused(name: str, code: int) -> None:
    done = run("view", name)
    assert done.exit_code == code
    assert done.stderr.startswith(f"Error: {name}")
    assert done.stderr.count("\n") == 1
