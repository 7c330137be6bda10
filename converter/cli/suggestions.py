"""Command lines that apply a suggestion."""

import shlex
from typing import TYPE_CHECKING

from converter.targets.catalog import DEFAULT_TARGET

if TYPE_CHECKING:
    from converter.comparison.suggestion import Suggestion
    from converter.pipeline.reconvert import Origin

__all__ = ["command", "suggested_options"]


def suggested_options(suggestion: "Suggestion") -> tuple[str, ...]:
    """Return the options of `convert` that apply a suggestion."""
    excluded = [part for name in suggestion.exclude for part in ("--exclude", name)]
    more = [part for name, bits in (suggestion.bits or {}).items() for part in ("--bits", f"{name}={bits}")]
    return (*excluded, *more)


def command(reference: str, model: str, origin: "Origin | None", suggestion: "Suggestion", *given: str) -> str:
    """Return the command line that applies a suggestion. ``given`` are options for the reference model."""
    words = ["convert-onnx", "convert", reference, *given, "-o", "OUT.onnx"]
    options = suggested_options(suggestion)
    if origin is None:
        return shlex.join([*words, *options])
    words += ["--recipe", model]
    words += ["--target", origin.target] if origin.target != DEFAULT_TARGET else []
    words += [] if origin.calibration is None else ["--calibration", "DATA"]
    return shlex.join([*words, *options])
