"""Networks of several tasks, by the metric of each: float, int8, int4, and the smallest file within a drop.

    python -m benchmarks.tasks                  all tasks
    python -m benchmarks.tasks pose notes       some of them

Four networks are trained here on drawn data, in under a minute each. Two come in packages, which are downloaded into
build/shipped. 64 samples calibrate, 256 others judge the budget, and 256 others are measured. The exit code is 1 if
int8 drops by more than the budget, or the budget's file by more than twice the budget on the samples measured.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.shipped.files import FILES, fetch
from benchmarks.tasks.scenes import Arrays, Scenes, figures, notes, pictures, shapes, surfaces, text_lines
from converter import Budget, Metric, Settings, convert, convert_within, evaluate
from converter.metrics.metric import Labels, Outputs
from converter.metrics.text import Cer
from converter.model_io.structure import model_bytes
from converter.report.table import plain_table, show

__all__ = ["TASKS", "NoteF1", "Row", "Task", "main", "measured"]

_CALIBRATE, _JUDGE, _MEASURE = 64, 256, 256
_STEPS = 400


class NoteF1(Metric):
    """F1 of the notes that sound in each frame, in percent.

    The output is basic-pitch's [n, frames, keys]. Labels ``notes`` are zeros and ones of the same shape.
    """

    name: ClassVar[str] = "note_f1"
    unit: ClassVar[str] = "%"
    needs: ClassVar[tuple[str, ...]] = ("notes",)
    _output = "StatefulPartitionedCall:1"
    _least = 0.3  # basic-pitch's own threshold of a frame

    def __init__(self) -> None:
        self._both, self._either = 0, 0

    def update(self, outputs: Outputs, labels: Labels) -> None:
        """Count the frames of keys that sound."""
        found: NDArray[Any] = outputs[self._output] >= self._least
        right = np.asarray(labels["notes"]) > 0
        self._both += int((found & right).sum())
        self._either += int(found.sum()) + int(right.sum())

    def value(self) -> float:
        """Return 2 both / (found + right)."""
        return 200.0 * self._both / max(self._either, 1)


@dataclass(frozen=True)
class Task:
    """A network, its data, and the metric that it is judged by.

    Attributes:
        what: What the network does, and where it comes from.
        model: Returns the float model.
        scenes: Data with labels.
        metric: Metric, in a form of `converter.evaluate`, made for the model.
        shown: Name and unit of the metric.
        drop: Budget in the unit of the metric.
        count: Number of samples that judge, and of those that are measured.
    """

    what: str
    model: Callable[[], onnx.ModelProto]
    scenes: Scenes
    metric: Callable[[onnx.ModelProto], Any]
    shown: str
    drop: float
    count: int = _MEASURE


@dataclass(frozen=True)
class Row:
    """One file of a task.

    Attributes:
        task: Name of the task.
        file: "float", "int8", "int4" or "budget".
        metric: Value in the unit of the metric.
        sqnr_db: SQNR of the worst output.
        bytes: Size relative to float.
        seconds: Time of the conversion.
    """

    task: str
    file: str
    metric: float
    sqnr_db: float | None
    bytes: float
    seconds: float


def _trained(name: str, scenes: Scenes, steps: int = _STEPS) -> Callable[[], onnx.ModelProto]:
    def model() -> onnx.ModelProto:
        from benchmarks.tasks import networks

        made: onnx.ModelProto = getattr(networks, name)(scenes, steps)
        return made

    return model


def _shipped(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: onnx.load(fetch(next(file for file in FILES if file.name == name)))


def _letters(model: onnx.ModelProto) -> Any:
    """Return the character error rate with the alphabet of a PP-OCR file: a blank, its characters, a space."""
    (characters,) = (entry.value for entry in model.metadata_props if entry.key == "character")
    return partial(Cer, alphabet="\0" + characters.replace("\n", "") + " ")


def _named(metric: Any) -> Callable[[onnx.ModelProto], Any]:
    return lambda _: metric


TASKS = {
    "segmentation": Task(
        "pixels of drawn shapes", _trained("segmentation", shapes), shapes, _named("miou"), "mean IoU, %", 0.5
    ),
    "depth": Task("distance of lit hills", _trained("depth", surfaces), surfaces, _named("absrel"), "AbsRel, %", 0.2),
    "super-resolution": Task(
        "pictures, 24 to 48 pixels", _trained("super_resolution", pictures), pictures, _named("psnr"), "PSNR, dB", 0.1
    ),
    "pose": Task("keypoints of drawn persons", _trained("pose", figures), figures, _named("oks"), "OKS, %", 0.5),
    "ocr": Task(
        "PP-OCRv4 of rapidocr-onnxruntime 1.4.4", _shipped("ppocr-rec"), text_lines, _letters, "CER, %", 1.0, count=96
    ),
    "notes": Task("basic-pitch 0.4.0", _shipped("basic-pitch"), notes, _named(NoteF1), "F1 of notes, %", 1.0, count=64),
}
"""Tasks by name."""


def measured(name: str, task: Task, folder: Path) -> list[Row]:
    """Convert the network of a task by each recipe and within the budget, and measure all files side by side."""
    model = task.model()
    metric = task.metric(model)
    paths, seconds = {"float": folder / "float.onnx"}, {"float": 0.0}
    onnx.save(model, paths["float"])
    calibration, measure = folder / "calibration.npz", folder / "measure.npz"
    np.savez(calibration, **_fed(task.scenes(_CALIBRATE + task.count, 1), model))
    np.savez(measure, **_fed(task.scenes(task.count, 2), model))
    for file in ("int8", "int4", "budget"):
        started = time.monotonic()
        settings = Settings(limit=_CALIBRATE)
        if file == "budget":
            budget = Budget(max_drop=task.drop)
            settings = Settings(limit=_CALIBRATE, metric=metric)
            result = convert_within(paths["float"], calibration, budget, settings=settings)
        else:
            result = convert(paths["float"], calibration, recipe=file, settings=settings)
        paths[file] = folder / f"{file}.onnx"
        result.save(paths[file])
        seconds[file] = time.monotonic() - started
    evaluation = evaluate(list(paths.values()), measure, names=list(paths), metric=metric, latency=False)
    whole = model_bytes(paths["float"])
    return [
        Row(name, file, float(entry.metric or 0.0), entry.sqnr_db, model_bytes(paths[file]) / whole, seconds[file])
        for file, entry in zip(paths, evaluation.models, strict=True)
    ]


def _fed(arrays: Arrays, model: onnx.ModelProto) -> Arrays:
    """Give the input the name that the model has for it."""
    return {model.graph.input[0].name if name == "x" else name: values for name, values in arrays.items()}


def misses(task: Task, rows: Sequence[Row], *, higher_is_better: bool) -> list[str]:
    """Return the bars that the files of one task miss."""
    (whole,) = (row for row in rows if row.file == "float")
    sign = 1 if higher_is_better else -1
    allowed = {"int8": task.drop, "budget": 2 * task.drop}
    return [
        f"{row.task} {row.file}: {row.metric:.2f}, float {whole.metric:.2f}, {task.shown}"
        for row in rows
        if sign * (whole.metric - row.metric) > allowed.get(row.file, np.inf)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the tasks, and print a table and the bars that were missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.tasks", description="Several tasks, each by its own metric.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.tasks if name not in TASKS]
    if unknown:
        parser.error(f"{unknown[0]}: no such task; there are: {', '.join(TASKS)}")
    logging.disable(logging.WARNING)
    columns = ("task", "metric", "file", "value", "SQNR", "size", "seconds")
    table, missed = plain_table("", columns, (3, 4, 5, 6)), []
    for name in options.tasks or list(TASKS):
        task = TASKS[name]
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(name, task, Path(folder))
        for row in rows:
            error = "" if row.file == "float" or row.sqnr_db is None else f"{row.sqnr_db:.1f}"
            cells = (
                row.task,
                task.shown,
                row.file,
                f"{row.metric:.2f}",
                error,
                f"{row.bytes:.2f}",
                f"{row.seconds:.0f}",
            )
            print(*cells, flush=True)
            table.add_row(*cells)
        missed += misses(task, rows, higher_is_better=name not in ("depth", "ocr"))
    show([table])
    for line in missed:
        print(f"missed: {line}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
