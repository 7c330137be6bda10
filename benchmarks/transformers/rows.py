"""Files of one transformer, by this tool and by onnxruntime, and what is measured of them."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.side_by_side import processor_speedups
from benchmarks.transformers.methods import METHODS
from benchmarks.transformers.onnxruntime_files import onnxruntime_files
from converter import Recipe, Settings, convert
from converter.model_io.save import save_onnx
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import sqnr_db

__all__ = ["Arrays", "Row", "Score", "Task", "measured"]

Arrays = Mapping[str, NDArray[Any]]
Score = Callable[[NDArray[Any], NDArray[Any]], float]
_STEP = 50  # samples of a run


@dataclass(frozen=True)
class Task:
    """A transformer with its samples.

    Attributes:
        name: What it is.
        model: The float model, with one output.
        calibration, evaluation: Samples by input name. They share none.
        unit: What ``score`` is.
        score: Score of a file: of the outputs of float, and of its own.
    """

    name: str
    model: onnx.ModelProto
    calibration: Arrays
    evaluation: Arrays
    unit: str
    score: Score


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        file: Name of the row.
        score: Score of the task.
        sqnr_db: SQNR of the output. Infinite for float.
        bytes: Bytes of the file.
        faster: Speed relative to float with 1 and with 8 samples a run, in the least processor time.
        cpu_seconds: Processor time of the conversion. 0 for files of onnxruntime.
    """

    file: str
    score: float
    sqnr_db: float
    bytes: int
    faster: tuple[float, float]
    cpu_seconds: float


def measured(task: Task, methods: Sequence[str], peers: bool, progress: Progress, timed: bool = True) -> list[Row]:
    """Convert by each of ``methods`` and measure all files. The float model comes first.

    Args:
        task: The network.
        methods: Names of `METHODS`.
        peers: Whether onnxruntime's quantizers are measured too.
        progress: Called during the conversions.
        timed: Whether speeds are measured. Otherwise they are 0.
    """
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as temporary:
        folder = Path(temporary)
        files, seconds = {"float": folder / "float.onnx"}, {}
        save_onnx(task.model, files["float"])
        np.savez(folder / "calibration.npz", **task.calibration)  # type: ignore[arg-type]
        if peers:
            files |= onnxruntime_files(files["float"], task.calibration, folder)
        for index, name in enumerate(methods):
            files[name] = folder / f"{index}.onnx"
            seconds[name] = _convert(METHODS[name], files["float"], folder / "calibration.npz", files[name], progress)
        faster = dict.fromkeys(files, (0.0, 0.0))
        if timed:
            speeds = [processor_speedups(files, _part(task.evaluation, 0, count), rounds=15) for count in (1, 8)]
            faster = {name: (speeds[0][name], speeds[1][name]) for name in files}
        reference = outputs(files["float"], task.evaluation)
        rows = []
        for name, path in files.items():
            found = reference if name == "float" else outputs(path, task.evaluation)
            size, took = path.stat().st_size, seconds.get(name, 0.0)
            rows.append(Row(name, task.score(reference, found), sqnr_db(reference, found), size, faster[name], took))
    return rows


def _convert(recipe: Recipe, model: Path, calibration: Path, path: Path, progress: Progress) -> float:
    """Write a file, and return the processor time of it."""
    started = time.process_time()
    data = calibration if recipe.needs_calibration else None
    convert(model, data, recipe=recipe, settings=Settings(timing=False), progress=progress).save(path)
    return time.process_time() - started


def outputs(model: Path, samples: Arrays) -> NDArray[Any]:
    """Return the output of the model for all samples, [n, ...]."""
    runner, count = Runner(model, model.name), len(next(iter(samples.values())))
    return np.concatenate([runner.execute(_part(samples, at, _STEP))[0] for at in range(0, count, _STEP)])


def _part(samples: Arrays, start: int, count: int) -> dict[str, NDArray[Any]]:
    return {name: values[start : start + count] for name, values in samples.items()}
