"""Output of the demonstration: one row for each file, the meaning of the columns, and the skipped layers."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from converter.display.numbers import size
from converter.evaluation.evaluate import Evaluation, Measurement
from converter.pipeline.result import Result
from converter.report.table import float_layers_table

__all__ = ["measured_on", "result_table", "skipped_layers"]

COLUMNS = ("file", "weights", "activations", "size", "", "latency", "", "SQNR", "conversion")


def result_table(evaluation: Evaluation, results: Sequence[Result]) -> Table:
    """Build the table: the float model, then one row for each conversion, in the order of ``evaluation.models``."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        left = column in {"file", "weights", "activations"}
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    reference, *converted = evaluation.models
    table.add_row(
        Path(reference.model).name, "32 bits", "32 bits", size(reference.bytes), "", _milliseconds(reference), *[""] * 3
    )
    for model, result in zip(converted, results, strict=True):
        table.add_row(
            Text(Path(model.model).name, style="bold"),
            _bits([layer.bits for layer in result.layers]),
            _bits([layer.activation_bits for layer in result.layers]),
            size(model.bytes),
            f"{reference.bytes / model.bytes:.1f}x smaller",
            _milliseconds(model),
            "-" if model.speedup is None else _speed(model.speedup),
            "-" if model.sqnr_db is None else f"{model.sqnr_db:.1f} dB",
            f"{result.seconds:.0f} s",
        )
    return table


def measured_on(evaluation: Evaluation, calibrated: int) -> Text:
    """Describe the columns.

    No column counts classes. The crops show five photographs, and many crops of one photograph change their class at
    once. So agreement with the float model moves by ten points between machines at equal SQNR.
    """
    images = evaluation.models[0].images
    lines = (
        ("latency", "one image on one thread, the files timed in turns, median"),
        (
            "SQNR",
            f"signal to quantization noise of the class scores, on {images} crops of photographs that calibration",
        ),
        ("", "never saw; 6 dB more halve the error. From machine to machine a 4-bit file moves by about 1 dB, since"),
        ("", "GPTQ's codes follow the last digits of sums"),
        ("conversion", f"seconds from the float file to the checked one, with {calibrated} calibration crops"),
    )
    return Text("\n".join(f"{name:<11} {meaning}" for name, meaning in lines), style="dim")


def skipped_layers(results: Sequence[Result]) -> list[RenderableType]:
    """List the layers that stay in float in every conversion, with reasons, or say in one line that there are none."""
    parts: list[RenderableType] = []
    for result in results:
        left = float_layers_table(result.layers)
        if left is not None:
            parts += [Text(f"\n{result.recipe.name}:"), left]
    counts = {len(result.layers) for result in results}
    if not parts and len(counts) == 1:
        parts.append(Text(f"\nNothing was skipped: all {counts.pop()} convolutions and matrix products are quantized."))
    return parts


def _bits(bits: Sequence[int]) -> str:
    """Return the most common number of bits, and the number of its layers unless all have it."""
    (most, count), *others = Counter(bits).most_common()
    return f"{most} bits" + (f" in {count} of {len(bits)}" if others else "")


def _milliseconds(model: Measurement) -> str:
    return "-" if model.latency_ms is None else f"{model.latency_ms:.1f} ms"


def _speed(speedup: float) -> str:
    if abs(speedup - 1) < 0.03:  # two runs of one file differ by as much
        return "as float"
    return f"{speedup:.2f}x faster" if speedup >= 1 else f"{1 / speedup:.2f}x slower"
