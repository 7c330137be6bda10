import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.save import prepare_output, save_onnx
from passes.errors import OutputError, VerificationError

WEIGHT = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)


def model(op: str = "Conv", weight: np.ndarray = WEIGHT, domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], name="conv", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "H", "W"])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def files(folder: Path) -> list[str]:
    """Everything in it, hidden entries included."""
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_the_model_and_nothing_else(tmp_path: Path) -> None:
    save_onnx(model(), tmp_path / "out.onnx")
    assert files(tmp_path) == ["out.onnx"]
    assert onnx.load(tmp_path / "out.onnx") == model()


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    save_onnx(model(), tmp_path / "out.onnx")
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.onnx", "other")]
    assert modes[0] == modes[1]


def test_replaces_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    save_onnx(model(), path)
    assert onnx.load(path) == model()


def test_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real" / "out.onnx")
    save_onnx(model(), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert onnx.load(tmp_path / "real" / "out.onnx") == model()


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_onnx(model(), Path("out.onnx"))
    assert files(tmp_path) == ["out.onnx"]


def test_large_weights_go_beside_the_model(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    original = model()
    save_onnx(original, path, inline_limit=1000)
    assert files(tmp_path) == ["out.onnx", "out.onnx.data"]
    assert path.stat().st_size < 1000
    assert original == model()  # not changed
    loaded = onnx.load(path)
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), WEIGHT)
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_weights_beside_a_replaced_model_get_another_name(tmp_path: Path) -> None:
    """The old model keeps its weights until the new model has its name."""
    path = tmp_path / "out.onnx"
    save_onnx(model(), path, inline_limit=1000)
    save_onnx(model(weight=2 * WEIGHT), path, inline_limit=1000)
    assert files(tmp_path) == ["out.onnx", "out.onnx.1.data"]
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), 2 * WEIGHT)
    save_onnx(model(), path, inline_limit=1000)
    assert files(tmp_path) == ["out.onnx", "out.onnx.data"]
    save_onnx(model(), path)
    assert files(tmp_path) == ["out.onnx"]


def test_a_kill_between_the_renames_leaves_a_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.onnx"
    save_onnx(model(), path, inline_limit=1000)
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_onnx(model(weight=2 * WEIGHT), path, inline_limit=1000)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), WEIGHT)
    assert files(tmp_path) == ["out.onnx", "out.onnx.data"]


KILLED = """
import os, signal, sys
from pathlib import Path
import onnx
from converter.model_io.save import save_onnx

places, step = [], int(sys.argv[2])
for name in ("replace", "unlink"):
    def killed(path, *arguments, real=getattr(Path, name), **options):
        places.append(path)
        if len(places) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *arguments, **options)
    setattr(Path, name, killed)
os.chdir(sys.argv[1])
save_onnx(onnx.load("new.onnx"), Path("out.onnx"), inline_limit=1000)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs file locks")
@pytest.mark.parametrize("step", range(1, 9))
def test_the_next_save_removes_the_weights_that_a_kill_left(tmp_path: Path, step: int) -> None:
    """The process is killed before its n-th rename or removal: before, between and after those of the model."""
    path = tmp_path / "out.onnx"
    onnx.save(model(weight=2 * WEIGHT), tmp_path / "new.onnx")
    save_onnx(model(), path, inline_limit=1000)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(step)]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
    assert done.returncode == (0 if step > 7 else -signal.SIGKILL)
    weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    assert np.array_equal(weight, WEIGHT) or np.array_equal(weight, 2 * WEIGHT)
    save_onnx(model(weight=3 * WEIGHT), path, inline_limit=1000)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), 3 * WEIGHT)
    assert len([name for name in files(tmp_path) if name != "new.onnx"]) == 2, files(tmp_path)


def test_a_file_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"old")
    (tmp_path / "out.onnx.data").write_bytes(b"somebody's")
    save_onnx(model(), tmp_path / "out.onnx", inline_limit=1000)
    assert files(tmp_path) == ["out.onnx", "out.onnx.1.data", "out.onnx.data"]


def test_permissions_follow_the_umask_or_the_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    before = os.umask(0o027)
    try:
        save_onnx(model(), path)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o600)
        save_onnx(model(), path)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_several_large_weights_are_aligned(tmp_path: Path) -> None:
    several = model()
    several.graph.node[0].input.append("b")
    several.graph.initializer.append(numpy_helper.from_array(np.arange(16, dtype=np.float32), "b"))  # stays inside
    several.graph.node.append(helper.make_node("Conv", ["x", "w2"], ["z"]))
    several.graph.initializer.append(numpy_helper.from_array(2 * WEIGHT, "w2"))
    save_onnx(several, tmp_path / "out.onnx", inline_limit=1000)
    bare = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    offsets = [
        int(entry.value) for tensor in bare.graph.initializer for entry in tensor.external_data if entry.key == "offset"
    ]
    assert offsets == [0, 4096]
    loaded = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[2]), 2 * WEIGHT)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose out.onnx must survive."""
    (tmp_path / "out.onnx").write_bytes(b"old")
    (tmp_path / "out.onnx.data").write_bytes(b"old data")
    return tmp_path


def assert_untouched(folder: Path) -> None:
    assert files(folder) == ["out.onnx", "out.onnx.data"]
    assert (folder / "out.onnx").read_bytes() == b"old"
    assert (folder / "out.onnx.data").read_bytes() == b"old data"


@pytest.mark.parametrize("limit", [1000, 10**9], ids=["external", "inline"])
def test_a_model_that_the_checker_refuses(folder: Path, limit: int) -> None:
    with pytest.raises(VerificationError, match=r"out\.onnx not written: onnx\.checker refuses the result: No Op"):
        save_onnx(model("Convolve"), folder / "out.onnx", inline_limit=limit)
    assert_untouched(folder)


def test_a_model_whose_shapes_contradict_each_other(folder: Path) -> None:
    with pytest.raises(VerificationError, match=r"onnx\.checker refuses the result"):
        save_onnx(model(weight=np.zeros((4, 3, 3), np.float32)), folder / "out.onnx")
    assert_untouched(folder)


@pytest.mark.parametrize("limit", [1000, 10**9], ids=["external", "inline"])
def test_a_model_that_onnxruntime_cannot_load(folder: Path, limit: int) -> None:
    with pytest.raises(
        VerificationError, match=r"out\.onnx not written: onnxruntime cannot load it: .*NoSuchOp"
    ) as caught:
        save_onnx(model("NoSuchOp", domain="com.microsoft"), folder / "out.onnx", inline_limit=limit)
    assert "\n" not in str(caught.value)
    assert_untouched(folder)


@pytest.mark.parametrize("check", [prepare_output, lambda path: save_onnx(model(), path)], ids=["prepare", "save"])
class TestWrongOutputs:
    def test_missing_folder(self, tmp_path: Path, check: Any) -> None:
        with pytest.raises(OutputError, match="nowhere does not exist; create it"):
            check(tmp_path / "nowhere" / "out.onnx")
        assert files(tmp_path) == []

    def test_a_folder(self, tmp_path: Path, check: Any) -> None:
        with pytest.raises(OutputError, match=r"is a folder; give a file name in it, such as .*model\.onnx"):
            check(tmp_path)

    def test_a_device(self, check: Any) -> None:
        with pytest.raises(OutputError, match="not a regular file"):
            check(Path(os.devnull))

    def test_a_file_as_folder(self, folder: Path, check: Any) -> None:
        with pytest.raises(OutputError, match="does not exist"):
            check(folder / "out.onnx" / "out.onnx")

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
    def test_an_unwritable_folder(self, folder: Path, check: Any, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        # root, as in CI, may write anywhere: the system's answer is put in its place
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("tempfile.mkdtemp", refuse)
        with pytest.raises(OutputError, match=r"the folder cannot be written .*; give another output folder"):
            check(folder / "out.onnx")
        assert_untouched(folder)


def test_a_read_only_file_is_refused_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root, as in CI, may write everything: the system's answer is put in its place."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "out.onnx" or mode != os.W_OK)
    with pytest.raises(OutputError, match=r"out\.onnx is read-only, so it is not replaced"):
        prepare_output(folder / "out.onnx")
    assert_untouched(folder)


def test_prepare_output_leaves_nothing_behind(tmp_path: Path) -> None:
    assert prepare_output(tmp_path / "out.onnx") == (tmp_path / "out.onnx").resolve()
    assert files(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        prepare_output(tmp_path / "out.onnx")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("limit", [1000, 10**9], ids=["external", "inline"])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "no space left on the disk; free some"),
        (OSError(errno.EIO, "Input/output error"), OutputError, "cannot be written: Input/output error"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (SystemExit(143), SystemExit, "143"),
    ],
    ids=["disk_full", "disk_broken", "ctrl_c", "sigterm"],
)
@pytest.mark.parametrize("step", ["os.fsync", "onnxruntime.InferenceSession", "pathlib.Path.replace"])
def test_a_failure_in_the_middle_leaves_everything_as_it_was(  # one of the steps fails, wherever it is
    folder: Path,
    step: str,
    error: BaseException,
    raised: type[BaseException],
    message: str | None,
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if step == "onnxruntime.InferenceSession" and isinstance(error, OSError):
        pytest.skip("onnxruntime does not write")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(raised, match=message):
            save_onnx(model(), folder / "out.onnx", inline_limit=limit)
    assert_untouched(folder)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["disk", "ctrl_c"]
)
@pytest.mark.parametrize("failing", [1, 2])
def test_old_weights_come_back_if_the_model_cannot_follow(
    folder: Path, failing: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace
    calls = []

    def fail_once(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save_onnx(model(), folder / "out.onnx", inline_limit=1000)
    assert_untouched(folder)


SLOW_SAVE = """
import signal, sys, time
from pathlib import Path
import onnx, onnxruntime
from converter.model_io.save import save_onnx

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored

def slow(*_, **__):
    print("saving", flush=True)
    time.sleep(60)

onnxruntime.InferenceSession = slow
save_onnx(onnx.load(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_during_a_save_leaves_no_temporary_file(folder: Path, number: signal.Signals, code: int) -> None:
    source = folder.parent / f"{folder.name}.onnx"
    onnx.save(model(), source)
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, str(source), str(folder / "out.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"saving\n"
        assert len(files(folder)) == 4  # the temporary is there, and a lock
        process.send_signal(number)
        assert process.wait(30) == code
    assert_untouched(folder)


def test_the_callers_signal_handlers_are_left_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    save_onnx(model(), tmp_path / "out.onnx")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
