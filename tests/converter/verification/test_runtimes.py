"""verify --runtime: invalid runtimes, runtimes without the provider, versions older or newer than promised."""

import json
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import convert
from converter.targets.catalog import find_target
from converter.verification.promised import older_targets, stands
from converter.verification.verify import verify
from passes.errors import TargetError
from tests.support.command_line import process, run
from tests.support.models import SIDE, small_cnn

X = np.random.default_rng(0).standard_normal((16, 3, SIDE, SIDE)).astype(np.float32)

# An interpreter whose onnxruntime is another version, and cannot load the file.
OTHER = """#!{python}
import json, pathlib, sys
job = json.load(open(sys.argv[2]))
pathlib.Path(job["ready"]).touch()
print(json.dumps({{"runtime": "onnxruntime {version}", "error": "NotImplemented: Cast(21)"}}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx and cpu.onnx."""
    folder = tmp_path_factory.mktemp("made")
    model = small_cnn(transpose=False)
    onnx.save(model, folder / "float.onnx")
    convert(model, X).save(folder / "cpu.onnx")
    np.savez(folder / "x.npz", x=X)
    return folder


def interpreter(folder: Path, version: str) -> Path:
    path = folder / "python"
    path.write_text(OTHER.format(python=sys.executable, version=version))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_python_without_the_provider_verifies_nothing(made: Path) -> None:
    """onnxruntime itself only warns, and runs on the CPU."""
    expected = (
        f"`runtime='{sys.executable}'` cannot run target openvino: onnxruntime .* has no OpenVINOExecutionProvider; "
        "give a Python that has onnxruntime-openvino, or install it there"
    )
    with pytest.raises(TargetError, match=expected):
        verify(made / "cpu.onnx", "openvino", runtime=Path(sys.executable))
    with pytest.raises(TargetError, match="No module named 'onnxruntime_qnn'; give a Python that has onnxruntime-qnn"):
        verify(made / "cpu.onnx", "qnn", runtime=Path(sys.executable))
    result = process("verify", str(made / "cpu.onnx"), "--target", "openvino", "--runtime", sys.executable)
    assert result.returncode == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("ls", "cannot run target cpu: .*ls ended with 0 and said: nothing; give a Python that has onnxruntime"),
        ("cat", "cannot run target cpu: it does not run the session script; give a Python that has onnxruntime"),
    ],
)
def test_a_program_that_is_no_python(made: Path, command: str, message: str) -> None:
    program = shutil.which(command)
    assert program is not None
    with pytest.raises(TargetError, match=message):
        verify(made / "cpu.onnx", "cpu", runtime=Path(program))


def test_a_file_that_is_no_program(made: Path) -> None:
    with pytest.raises(TargetError, match=r"x\.npz'` cannot run target cpu: .*Permission denied.*; give a Python that"):
        verify(made / "cpu.onnx", "cpu", runtime=made / "x.npz")


def test_a_path_that_is_not_there(made: Path) -> None:
    with pytest.raises(TargetError, match="`runtime='/nonexist'` is not there; give a Python that has onnxruntime"):
        verify(made / "cpu.onnx", "cpu", runtime=Path("/nonexist"))


def test_an_older_runtime_than_promised(made: Path, tmp_path: Path) -> None:
    actual = verify(made / "cpu.onnx", "cpu", runtime=interpreter(tmp_path, "1.20.1"))
    assert actual.runtime == "onnxruntime 1.20.1"
    assert actual.failures == ("it does not run on onnxruntime 1.20.1: NotImplemented: Cast(21)",)
    assert actual.next_step == (
        "target cpu needs onnxruntime 1.23 or newer, or convert the float model with `target=` generic"
    )
    result = run("verify", str(made / "cpu.onnx"), "--target", "cpu", "--runtime", str(tmp_path / "python"))
    assert result.exit_code == 3
    assert result.stderr.endswith(f"NotImplemented: Cast(21); {actual.next_step.replace('`target=`', '--target')}\n")
    shown = run("verify", str(made / "cpu.onnx"), "--target", "cpu", "--runtime", str(tmp_path / "python"), "--json")
    assert json.loads(shown.stdout)["next_step"].endswith("or convert the float model with --target generic")


def test_a_promised_runtime_that_fails(made: Path, tmp_path: Path) -> None:
    actual = verify(made / "cpu.onnx", "cpu", runtime=interpreter(tmp_path, "1.23.2"))
    assert actual.next_step == (
        "convert the float model with `target='cpu'` if it was written for another one; "
        "else try another version of the runtime"
    )


def test_a_newer_runtime_than_promised_gives_a_note(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERT_ONNX_TARGETS", str(made))
    actual = verify(made / "cpu.onnx", "generic")
    (note,) = actual.notes
    assert note == f"{actual.runtime} is newer than onnxruntime 1.20, the oldest that target generic supports"
    result = run("verify", str(made / "cpu.onnx"), "--target", "generic")
    assert f"Note: {note}\n" in result.stdout
    assert "Note:" not in run("verify", str(made / "cpu.onnx"), "--target", "generic", "--json").stdout


def test_a_runtime_that_does_not_tell_its_nodes(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "node_modules" / "onnxruntime-web"
    package.mkdir(parents=True)
    node = tmp_path / "node"
    node.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "import numpy as np, onnxruntime as ort\n"
        "job = json.load(open(sys.argv[2]))\n"
        "pathlib.Path(job['ready']).touch()\n"
        "session = ort.InferenceSession(job['model'], providers=['CPUExecutionProvider'])\n"
        "(feed,) = job['feeds']\n"
        "shapes = job['shapes'][feed['name']]\n"
        "x = np.fromfile(feed['file'], feed['type']).reshape(len(shapes), *shapes[0])\n"
        "y = np.stack([session.run(None, {feed['name']: run})[0] for run in x])\n"
        "y.tofile(job['folder'] + '/y')\n"
        "out = [{'name': 'output', 'type': y.dtype.name, 'shapes': [y.shape[1:]] * len(y), "
        "'file': job['folder'] + '/y'}]\n"
        "print(json.dumps({'runtime': 'onnxruntime-web 1.30.0', 'nodes': None, 'left': [], 'outputs': out}))\n"
    )
    node.chmod(node.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    actual = verify(made / "cpu.onnx", "web", runtime=tmp_path)
    assert actual.passed
    assert actual.notes == ("onnxruntime-web 1.30.0 does not report which nodes the provider runs",)


@pytest.mark.parametrize(
    ("promised", "runtime", "expected"),
    [
        ("onnxruntime 1.23", "onnxruntime 1.23.0", "promised"),
        ("onnxruntime 1.23", "onnxruntime 1.31.1", "newer"),
        ("onnxruntime 1.23", "onnxruntime 1.9.3", "older"),
        ("onnxruntime-openvino 1.24.1", "onnxruntime 1.24.1, onnxruntime-openvino 1.24.1", "promised"),
        ("onnxruntime 1.31 with onnxruntime-qnn 2.7", "onnxruntime 1.32.0, onnxruntime-qnn 2.6.1, HTP", "older"),
        ("onnxruntime-web 1.30", "onnxruntime-node 1.30.0", "unknown"),
        ("onnxruntime 1.23", "", "unknown"),
    ],
)
def test_versions_are_compared_number_by_number(promised: str, runtime: str, expected: str) -> None:
    assert stands(promised, runtime) == expected


def test_targets_of_older_runtimes() -> None:
    assert older_targets(find_target("cpu"), "onnxruntime 1.20.1") == ["generic"]
    assert older_targets(find_target("cpu"), "onnxruntime 1.19.2") == []
    assert older_targets(find_target("openvino"), "onnxruntime 1.23.0, onnxruntime-openvino 1.23.0") == []
