"""Save a model so that its name never stands for an unchecked or partly written file.

The model is written to a hidden folder beside the target. There onnx checks it and onnxruntime loads it. Then a single
rename moves it to its name. Any failure before that, including Ctrl-C and SIGTERM, leaves the target's folder as it
was.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import onnx
import onnxruntime

from converter.model_io.check import check_model
from converter.model_io.cpu_session import cpu_session
from converter.model_io.files import is_utf8
from converter.model_io.lock import owned
from converter.model_io.scratch import keep_mode, note_placed, scratch_folder
from converter.model_io.signals import signals_held
from converter.model_io.user_code import Terminated
from converter.model_io.write import data_files_of, free_data_file, write_onnx
from passes.errors import OutputError, VerificationError, first_line

__all__ = ["prepare_output", "save_onnx"]


def prepare_output(path: Path) -> Path:
    """Check before a long run that `path` can be written. Return it with links resolved.

    Raises:
        OutputError: Its folder does not exist or cannot be written, or `path` itself is a folder or a device, is
            read-only, or is not UTF-8.
    """
    target = Path(os.path.realpath(path))
    if not is_utf8(target):
        raise OutputError(f"{path}: the name or its folder is not UTF-8, which onnxruntime needs; give another name")
    if target.is_dir():
        raise OutputError(f"{path} is a folder; give a file name in it, such as {Path(path) / 'model.onnx'}")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path} is not a regular file; give another output name")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: folder {target.parent} does not exist; create it or give another output name")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"{path} is read-only, so it is not replaced; allow writing it, or give another output name")
    try:
        with scratch_folder(target):  # also removes what killed runs have left
            pass
    except OSError as error:
        raise _output_error(path, error) from error
    return target


def save_onnx(model: onnx.ModelProto, path: Path, *, inline_limit: int | None = None, keep_int8: bool = False) -> None:
    """Write a model to `path` atomically, after onnx's checker (full check) and onnxruntime's CPU provider accept it.

    An existing file does not change until it is replaced.

    Args:
        model: The model. It does not change.
        path: Path of the file.
        inline_limit: Bytes of weights above which they go to `<name>.data` beside the model. None: what fits one file.
        keep_int8: Whether onnxruntime may load the file with its int8 activations unchanged. Then a file for another
            target is not refused because of the CPU's optimizer.

    Raises:
        OutputError: The folder is missing or unwritable, or the disk is full.
        VerificationError: onnx.checker or onnxruntime refuses the file. Nothing is written.
    """
    target = prepare_output(path)
    try:
        with _exit_on_sigterm(), _saving(target), scratch_folder(target) as scratch:
            data = free_data_file(target)
            written = scratch / target.name
            write_onnx(model, written, inline_limit=inline_limit, data_name=data.name)
            _verify(model, written, Path(path), keep_int8)
            _publish(written, target, data)
    except OSError as error:
        raise _output_error(path, error) from error


def _saving(target: Path) -> contextlib.AbstractContextManager[None]:
    """Let other processes wait until this one has saved, or the weights of both would get the same name."""
    return owned(target, target.with_name(f".{target.name}.saving"), wait=True)


def _verify(model: onnx.ModelProto, written: Path, path: Path, keep_int8: bool) -> None:
    try:
        check_model(model, full=True)
    except ValueError as error:
        raise VerificationError(f"{path} not written: onnx.checker refuses the result: {first_line(error)}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the exception has onnxruntime's message
    options.intra_op_num_threads = 1
    try:
        cpu_session(written, options, keep_int8=keep_int8)
    except Exception as error:
        raise VerificationError(f"{path} not written: onnxruntime cannot load it: {first_line(error)}") from error


def _publish(written: Path, target: Path, data: Path) -> None:
    """Move the finished files to their names: weights under a new name, then the model, and then the old weights go.

    A process that is killed in between leaves the old model with its weights, or the new one with its own. The next
    save of this file removes the weights that the model does not name.
    """
    keep_mode(target, written)
    with signals_held():
        before, beside = data_files_of(target), written.with_name(data.name)
        if beside.exists() or before:
            note_placed(written.parent, [data.name, *(old.name for old in before)])
        if beside.exists():
            beside.replace(data)
        try:
            written.replace(target)
        except BaseException:
            data.unlink(missing_ok=True)
            raise
        for old in before - {data}:
            old.unlink(missing_ok=True)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, instead of ending the process at once."""

    def leave(number: int, _: FrameType | None) -> None:
        raise Terminated(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # other threads may not set handlers, and a caller's own handler stays
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: no space left on the disk; free some or give another output folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: the folder cannot be written ({error.strerror}); give another output folder")
    return OutputError(f"{path} cannot be written: {error.strerror or error}; give another output name")
