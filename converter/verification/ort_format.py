"""Files in onnxruntime's own format, for builds without a reader of ONNX, and the list of operators that they need.

onnxruntime's tool does the work: it applies its optimizations and saves the graph that it runs. So such a file is for
the processor and the version of onnxruntime that wrote it, and its weights are unpacked. The list of operators is for
a minimal build of onnxruntime (its option ``include_ops_by_config``).
"""

import contextlib
import io
import logging
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from converter.model_io.cpu_session import cpu_session
from converter.model_io.load import read_onnx
from converter.model_io.operator_libraries import libraries
from converter.model_io.scratch import replacing, scratch_folder
from converter.runtime.runner import Runner
from converter.verification.runs import noise_runs
from passes.arguments import require_type
from passes.errors import ModelError, OutputError, UsageError, VerificationError, first_line

__all__ = ["OrtFile", "write_ort"]

_PLATFORMS = ("arm", "amd64")
_ALIKE = 1e-3  # of the largest value: both run the same kernels, and may sum floats in another order


@dataclass(frozen=True)
class OrtFile:
    """A file in onnxruntime's format.

    Attributes:
        path: The file.
        config: The list of operators, for a minimal build.
        operators: Operators by domain and version, such as ``com.microsoft;1;QGemm,QLinearConv``.
        size: Bytes of the file.
        difference: Largest difference of an output on noise, as a share of the output's largest magnitude.
    """

    path: Path
    config: Path
    operators: tuple[str, ...]
    size: int
    difference: float


def write_ort(
    model: str | Path, folder: str | Path | None = None, *, platform: Literal["arm", "amd64"] | None = None
) -> OrtFile:
    """Write ``NAME.ort`` and ``NAME.required_operators.config``. The file is loaded and its outputs are compared.

    Args:
        model: Path of an .onnx file.
        folder: Folder for the two files. The default is the folder of the model.
        platform: Processor whose optimizations are applied. The default are those that every processor has.

    Raises:
        UsageError: There is no such platform, or the model needs custom operators.
        ModelError: The file cannot be read, or onnxruntime cannot convert it.
        OutputError: The folder cannot be written.
        VerificationError: The outputs differ. No file is written.
    """
    require_type("model", model, (str, Path), "the path of an .onnx file")
    if platform is not None and platform not in _PLATFORMS:
        raise UsageError(f"`platform={platform!r}` is none of {', '.join(_PLATFORMS)}")
    if libraries():
        raise UsageError("`custom_ops=`: a minimal build has no custom operators; leave it out, or keep the .onnx file")
    path = Path(model)
    read_onnx(path)
    place = path.parent if folder is None else Path(folder)
    with scratch_folder() as here:
        written, config = _converted(path, here, platform)
        difference = _difference(path, written)
        if not difference <= _ALIKE:
            raise VerificationError(
                f"{path}: the outputs of its .ort file differ by {difference:.2g} of the largest; keep the .onnx file"
            )
        operators = tuple(line for line in config.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
        config.write_text("\n".join([f"# {written.name}", *operators, ""]), encoding="utf-8")
        try:
            place.mkdir(parents=True, exist_ok=True)
            for file in (written, config):
                with replacing(place / file.name) as target:
                    shutil.copyfile(file, target)
        except OSError as error:
            raise OutputError(f"{place}: {error.strerror}") from error
    return OrtFile(
        place / written.name, place / config.name, operators, (place / written.name).stat().st_size, difference
    )


def _converted(path: Path, folder: Path, platform: str | None) -> tuple[Path, Path]:
    """Let onnxruntime's tool write the file and the list of operators. It prints and logs, which is for nobody."""
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    log = logging.getLogger("ort_format_model.utils")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore", category=ResourceWarning),  # the tool does not close a file
        ):
            convert_onnx_models_to_ort(
                path, folder, optimization_styles=[OptimizationStyle.Fixed], target_platform=platform
            )
    except Exception as error:
        raise ModelError(f"{path}: onnxruntime cannot write it in its format: {first_line(error)}") from error
    finally:
        log.setLevel(level)
    return folder / f"{path.stem}.ort", folder / f"{path.stem}.required_operators.config"


def _difference(path: Path, written: Path) -> float:
    """Largest difference of an output on noise, as a share of its largest magnitude.

    Both run with the kernels of a deployment: the .ort file names its kernels, so it cannot get exact ones.
    """
    runner = Runner(path, str(path))
    model, file = ort.SessionOptions(), ort.SessionOptions()
    model.log_severity_level = file.log_severity_level = 4
    try:
        session = ort.InferenceSession(os.fspath(written), file, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path}: its .ort file does not load: {first_line(error)}") from error
    reference, differences = cpu_session(path, model), [0.0]
    for run in noise_runs(runner):
        feeds = runner.inputs(run.feeds)
        for expected, actual in zip(
            reference.run(runner.outputs, feeds), session.run(runner.outputs, feeds), strict=True
        ):
            differences.append(_apart(np.asarray(expected), np.asarray(actual)))
    return float(np.max(differences))  # unlike `max`, it keeps NaN


def _apart(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    one, other = expected.astype(np.float64), actual.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))  # infinite values and NaN of the model itself
    largest = np.abs(one[np.isfinite(one)]).max(initial=np.finfo(np.float32).tiny)
    return float(np.abs(one[~same] - other[~same]).max(initial=0.0) / largest)
