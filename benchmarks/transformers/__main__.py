"""A sentence encoder and Vision Transformers with trained weights: recipes of this tool, and onnxruntime's quantizers.

    python -m benchmarks.road_sign_vit                                trains the Vision Transformer first
    python -m benchmarks.road_sign_vit --projected                    and the one with a linear projection
    python -m benchmarks.transformers                                 all networks, every method
    python -m benchmarks.transformers minilm --methods W8             rows whose names begin with this
    python -m benchmarks.transformers vit --no-peers --json FILE
    python -m benchmarks.transformers vit-projected --no-peers        the one whose residual stream can be rotated

128 sentences or 512 road signs calibrate. Measured are 500 other sentences, by the mean cosine between the embeddings
of a file and those of float, and the 6,315 test images of road signs, by top-1 accuracy. Speeds are in the least
processor time of interleaved runs on one thread. The exit code is 1 if a bar is missed, or if data are missing.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from benchmarks.shared_data import MissingData
from benchmarks.transformers.methods import METHODS
from benchmarks.transformers.road_signs import road_sign_images, vit
from benchmarks.transformers.rows import Row, Task, measured
from benchmarks.transformers.sentences import encoded, minilm, sentences
from converter import ConvertError
from converter.report.progress import progress_bars
from converter.report.table import show

__all__ = ["TASKS", "cosine", "main", "missed", "table", "top1"]

_CALIBRATE, _MEASURE = 128, 500  # sentences
_IMAGES = 512


def cosine(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the mean cosine between the rows of two arrays [n, d]."""
    sizes = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    return float(np.mean((reference * found).sum(1) / sizes))


def top1(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the percentage of rows [n, classes] whose largest score is their label [n]."""
    return float(100 * np.mean(scores.argmax(1) == labels))


def _minilm() -> Task:
    texts = sentences(_CALIBRATE + _MEASURE)
    return Task("minilm", minilm(), encoded(texts[:_CALIBRATE]), encoded(texts[_CALIBRATE:]), "cosine", cosine)


def _vit(name: str = "vit") -> Task:
    model = vit(name)
    calibration, evaluation, labels = road_sign_images(model, _IMAGES)
    return Task(
        name, model, {"input": calibration}, {"input": evaluation}, "top-1, %", lambda _, found: top1(found, labels)
    )


TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {"minilm": _minilm, "vit": _vit, "vit-projected": lambda: _vit("vit-projected")}
)
"""Makers of the tasks by name."""

_LEAST = MappingProxyType({"minilm": {"W8A8": 0.99, "W4A32": 0.98, "W4,": 0.98}})
_LARGEST_DROP = 0.3  # points of the best W4A8 file of the ViT


def missed(task: str, rows: Sequence[Row]) -> list[str]:
    """Return the bars that the files of a task miss."""
    problems = []
    for start, least in _LEAST.get(task, {}).items():
        best = max((row.score for row in rows if row.file.startswith(start)), default=None)
        if best is not None and best < least:
            problems.append(f"{task}, {start}: {best:.4f} is below {least}")
    best = max((row.score for row in rows if row.file.startswith("W4A8")), default=None)
    if task.startswith("vit") and best is not None and best < rows[0].score - _LARGEST_DROP:
        problems.append(f"{task}, W4A8: {best:.2f} % is more than {_LARGEST_DROP} below {rows[0].score:.2f} %")
    return problems


def table(rows: Sequence[Row], unit: str) -> Table:
    """Build a table with one row for each file."""
    built = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in ("file", unit, "SQNR", "MB", "speed, 1", "speed, 8", "CPU s"):
        built.add_column(column, justify="left" if column == "file" else "right")
    for row in rows:
        score = f"{row.score:.4f}" if unit == "cosine" else f"{row.score:.2f}"
        error = f"{row.sqnr_db:.1f} dB" if np.isfinite(row.sqnr_db) else ""
        took = f"{row.cpu_seconds:.0f}" if row.cpu_seconds else ""
        built.add_row(row.file, score, error, f"{row.bytes / 1e6:.2f}", *(f"{x:.2f}" for x in row.faster), took)
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each network. The result is 1 if data are missing, a conversion fails or a bar is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.transformers", description="Transformers with trained weights.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--methods", nargs="+", default=[""], metavar="NAME", help="rows that begin with this")
    parser.add_argument("--no-peers", action="store_true", help="without onnxruntime's quantizers")
    parser.add_argument("--no-timing", action="store_true", help="without speeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    for name in options.tasks:
        if name not in TASKS:
            parser.error(f"no task is named {name!r}; there are: {', '.join(TASKS)}")
    for name in options.methods:
        if not any(each.startswith(name) for each in METHODS):
            parser.error(f"no row begins with {name!r}; there are: {', '.join(METHODS)}")
    wanted = [name for name in METHODS if name.startswith(tuple(options.methods))]
    content, problems = {}, []
    try:
        for name in options.tasks or TASKS:
            task = TASKS[name]()
            with progress_bars() as progress:
                rows = measured(task, wanted, not options.no_peers, progress, timed=not options.no_timing)
            show([table(rows, task.unit)])
            content[name] = [asdict(row) for row in rows]
            problems += missed(name, rows)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for line in problems:
        print(f"missed: {line}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
