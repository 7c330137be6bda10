"""Write a model so that its name only ever stands for a file that was checked and loaded.

The model is written into a hidden folder beside the target, checked by onnx and loaded by onnxruntime there, and moved
to its name with one rename. Whatever goes wrong before that, Ctrl-C and SIGTERM included, leaves the folder as it was.
"""

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import onnx
import onnxruntime
from onnx import TensorProto

from converter.model_io.cpu_session import cpu_session
from converter.model_io.protobuf import copy_fields
from converter.model_io.user_code import Terminated
from passes.errors import OutputError, VerificationError, first_line

__all__ = ["INLINE_LIMIT", "prepare_output", "save_onnx", "write_onnx"]

INLINE_LIMIT = 2**31 - 2**24  # bytes of weights a single protobuf (2 GiB at most) can hold, with room for the nodes
_EXTERNAL_FROM = 1024  # bytes: smaller tensors (shapes, scales) stay inside the model
_ALIGNMENT = 4096  # bytes, so that runtimes can map the data file


def prepare_output(path: Path) -> Path:
    """Find out before a long run whether `path` can be written; returns it with links resolved.

    Raises:
        OutputError: its folder does not exist or cannot be written, or `path` itself is a folder or a device.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"{path} is a folder; give a file name in it, such as {Path(path) / 'model.onnx'}")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path} is not a regular file; give another output name")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: folder {target.parent} does not exist; create it or give another output name")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise _output_error(path, error) from error
    return target


def save_onnx(model: onnx.ModelProto, path: Path, *, inline_limit: int = INLINE_LIMIT, keep_int8: bool = False) -> None:
    """Write `model` to `path` atomically, after onnx.checker (full check) and onnxruntime's CPU provider took it.

    An existing file stays untouched until it is replaced. Above `inline_limit` bytes of weights, they go to
    `<name>.data` beside the model. `model` is not changed. With `keep_int8` onnxruntime may load it with its int8
    activations as they are: a file for another target is not refused for what the CPU's optimizer makes of them.

    Raises:
        OutputError: the folder is missing or unwritable, or the disk is full.
        VerificationError: the file was refused by onnx.checker or by onnxruntime; nothing was written.
    """
    target = prepare_output(path)
    with _exit_on_sigterm(), _scratch_folder(path, target) as scratch:
        written = scratch / target.name
        try:
            write_onnx(model, written, inline_limit=inline_limit)
            _verify(written, Path(path), keep_int8)
            _publish(written, target)
        except OSError as error:
            raise _output_error(path, error) from error


def write_onnx(model: onnx.ModelProto, written: Path, *, inline_limit: int = INLINE_LIMIT) -> None:
    """Write `model`, its weights beside it above `inline_limit` bytes, without a check; `model` is not changed."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > inline_limit:
        with _data_of(written).open("wb") as data:
            model = _with_external_data(model, _data_of(written).name, data.fileno())
            os.fsync(data.fileno())
    with written.open("wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _with_external_data(model: onnx.ModelProto, location: str, file: int) -> onnx.ModelProto:
    """A copy of `model` whose large initializers lie in the open `file`."""
    copy = onnx.ModelProto()
    copy_fields(model, copy, skip="graph")
    copy_fields(model.graph, copy.graph, skip="initializer")
    offset = 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < _EXTERNAL_FROM:
            copy.graph.initializer.append(tensor)
            continue
        offset += -offset % _ALIGNMENT
        os.lseek(file, offset, os.SEEK_SET)
        view = memoryview(raw)
        while view:
            view = view[os.write(file, view) :]
        outside = copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(raw)))):
            outside.external_data.add(key=key, value=value)
        offset += len(raw)
    return copy


def _verify(written: Path, path: Path, keep_int8: bool) -> None:
    try:
        onnx.checker.check_model(str(written), full_check=True)
    except Exception as error:
        raise VerificationError(f"{path} not written: onnx.checker refuses the result: {first_line(error)}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its own words come with the exception
    options.intra_op_num_threads = 1
    try:
        cpu_session(str(written), options, keep_int8=keep_int8)
    except Exception as error:
        raise VerificationError(f"{path} not written: onnxruntime cannot load it: {first_line(error)}") from error


def _publish(written: Path, target: Path) -> None:
    """Give the finished files their names: weights first, and back again if the model cannot follow."""
    data, final = _data_of(written), _data_of(target)
    with _signals_held():
        if not data.exists():
            written.replace(target)
            return
        kept = written.with_name("previous.data")
        if final.exists():
            final.replace(kept)
        try:
            data.replace(final)
            written.replace(target)
        except BaseException:
            if kept.exists():
                kept.replace(final)
            else:
                final.unlink(missing_ok=True)
            raise


def _data_of(path: Path) -> Path:
    return path.with_name(path.name + ".data")


@contextlib.contextmanager
def _scratch_folder(path: Path, target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, gone afterwards whatever happens."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise _output_error(path, error) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the stack, as Ctrl-C does, instead of ending the process where it stands."""

    def leave(number: int, _: FrameType | None) -> None:
        raise Terminated(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # another thread may not set handlers; a caller's own handler is its business
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the renames are done (where the system has signal masks)."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: no space left on the disk; free some or give another output folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: the folder cannot be written ({error.strerror}); give another output folder")
    return OutputError(f"{path} cannot be written: {error.strerror or error}; give another output name")
