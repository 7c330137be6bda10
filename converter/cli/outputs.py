"""Check of output paths. An output must not overwrite another output or an input."""

import os
from collections.abc import Sequence
from pathlib import Path

from converter.model_io.save import prepare_output
from converter.model_io.scratch import scratch_folder
from passes.errors import UsageError

__all__ = ["check_outputs", "same_file"]


def check_outputs(outputs: Sequence[tuple[str, Path]], inputs: Sequence[tuple[str, str | Path | None]]) -> None:
    """Check before any work that every output can be written without the loss of another file.

    Args:
        outputs: Options and their files. The first is the ONNX file.
        inputs: Options and their values: a file, a folder, ``FILE.py:NAME``, or None.

    Raises:
        UsageError: Two outputs are one file, an output is an input, or the name of the first does not end in .onnx.
        OutputError: A folder does not exist or cannot be written.
    """
    for index, (option, path) in enumerate(outputs):
        for other, earlier in outputs[:index]:
            if same_file(path, earlier):
                raise UsageError(f"{other} {earlier} and {option} {path} are one file; give two names")
        for other, given in inputs:
            if given is not None and same_file(path, _file_of(given)):
                raise UsageError(f"{option} {path} would overwrite {other} {given}; give another name")
    for _, path in outputs:
        prepare_output(path)
    with scratch_folder():  # removes what killed runs have left in the folder for temporary files
        pass
    option, path = outputs[0]
    if path.suffix != ".onnx":
        raise UsageError(f"{option} {path}: the name of an ONNX file ends in .onnx; use {path}.onnx")


def same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two paths lead to the same file. The file need not exist."""
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:
        return Path(first).samefile(second)  # a hard link, or a file system that ignores case
    except OSError:
        return False


def _file_of(given: str | Path) -> Path:
    file, colon, _ = str(given).partition(".py:")
    return Path(file + ".py" if colon else file)
