"""Trial run of a file before it gets its name, against the model that the user gave.

The file runs on a few samples twice: as every session runs it, and with onnxruntime's optimizations off. The first way
uses integer kernels, the second way computes in float between QuantizeLinear and DequantizeLinear. Both must be about
equally close to the float model. A file that fails, or whose two ways disagree, is refused.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from converter.display.numbers import decibels
from converter.runtime.choices import same_choice
from converter.runtime.few_samples import Feeds
from converter.runtime.output_errors import Outputs, output_errors
from converter.runtime.runner import Runner
from converter.runtime.saturation import has_integer_operators, quantizes_in_bodies, sums_saturate
from passes.errors import ModelError, VerificationError

__all__ = ["Fidelity", "Judges", "trial_run"]

Judges = Literal["held out", "ranges", "calibration", "noise"]
"""Samples that a file runs on: they did not calibrate it, or set ranges only, or calibrated it, or are noise."""

_WORDS: dict[Judges, str] = {
    "held out": "that did not calibrate",
    "ranges": "that no weight was fitted to",
    "calibration": "that calibrated",
    "noise": "of noise",
}

_NONE_DB = -999.0  # in JSON: another shape, or NaN
_ALIKE_DB = 20.0  # the two ways differ by rounding of activations only
_APART_DB = 10.0  # between the errors of the two ways, if one of them is wrong
_LOW_DB, _GOOD_DB = 15.0, 35.0
_SHOWN = 6  # most outputs in a line, the worst first
_LOSS_DB = 1.0  # by sums that saturate


@dataclass(frozen=True)
class Fidelity:
    """Distance of a file from the float model, on a few samples.

    Attributes:
        samples: Number of runs.
        judges: What these samples are.
        outputs: SQNR in dB of every float output or of its parts, by name. inf for an equal output. Where an output
            depends on a choice, such as that of the best boxes, the file makes the float model's choice.
        changing: Those whose shape is another than in float, so that they have no SQNR.
        exact_db: SQNR in dB of the worst output with kernels that add exactly, if this processor's own do not and the
            file loses by it. None: it does not lose.
    """

    samples: int
    judges: Judges
    outputs: dict[str, float]
    changing: frozenset[str] = frozenset()
    exact_db: float | None = None

    @property
    def sqnr_db(self) -> float | None:
        """SQNR of the worst output in dB. None if no output can be compared."""
        return min(self.outputs.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the samples and the distances as JSON values. SQNR is null for equal outputs, and -999 for NaN."""
        outputs = {name: None if error == math.inf else max(error, _NONE_DB) for name, error in self.outputs.items()}
        return {"samples": self.samples, "judges": self.judges, "outputs": outputs, "exact_db": self.exact_db}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Fidelity":
        """Return the distance that `to_json` made these values of."""
        found: dict[str, float | None] = values["outputs"]
        outputs = {
            name: math.inf if error is None else -math.inf if error <= _NONE_DB else error
            for name, error in found.items()
        }
        return cls(values["samples"], values["judges"], outputs, exact_db=values["exact_db"])

    @property
    def judged_on(self) -> str:
        """Number and kind of the samples in words."""
        return f"{self.samples} sample{'s' * (self.samples != 1)} {_WORDS[self.judges]}"

    def describe(self) -> str:
        """Return the distance of every output in words. Empty if no output can be compared."""
        if not self.outputs:
            return ""
        ordered = sorted(self.outputs.items(), key=lambda item: item[1])
        on = f"against float on {self.judged_on}"
        if len(ordered) == 1:
            return f"{decibels(ordered[0][1])} {on}"
        parts = [f"{name} {decibels(error)}" for name, error in ordered[:_SHOWN]]
        return f"{on}: {', '.join(parts)}" + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")

    @property
    def saturation(self) -> str:
        """What saturating sums cost on this processor. Empty if nothing, or if the file is good all the same."""
        if self.exact_db is None or self.sqnr_db is None or self.sqnr_db >= _GOOD_DB:
            return ""
        return (
            f"8-bit sums saturate on this processor, which has no VNNI: {decibels(self.sqnr_db)} here, and "
            f"{decibels(self.exact_db)} with kernels that add exactly"
        )

    @property
    def warning(self) -> str:
        """The worst output, if it is far from the float model. Else empty."""
        low = {name: error for name, error in self.outputs.items() if error < _LOW_DB}
        if not low:
            return ""
        name, error = min(low.items(), key=lambda item: item[1])
        which = f"output {name!r}" if len(self.outputs) > 1 else "the output"
        found = "another shape or NaN" if error == -math.inf else f"only {decibels(error)}"
        return f"{which} has {found} against float on samples {_WORDS[self.judges]}"


def trial_run(
    quantized: onnx.ModelProto, reference: Path | onnx.ModelProto, feeds: Sequence[Feeds], judges: Judges
) -> Fidelity:
    """Run a quantized model on a few samples.

    If an output depends on a choice, such as that of the best boxes, the file is compared on the float model's choice.

    Args:
        quantized: The quantized model.
        reference: The float model.
        feeds: Inputs of the runs.
        judges: What they are.

    Raises:
        VerificationError: The file fails when it runs, or the two ways disagree.
    """
    same = same_choice(quantized, reference, feeds)
    if same is not None:
        for optimize in (True, False):  # the file runs with its own choice, too
            _run(quantized, feeds, optimize=optimize)
        quantized, reference, feeds = same.model, same.reference, same.feeds
    expected, names, joined = _run_float(reference, feeds)
    usual = _run(quantized, feeds, optimize=True)
    plain = _run(quantized, feeds, optimize=False)
    whole, without = output_errors(expected, usual, names), output_errors(expected, plain, names)
    between = output_errors(plain, usual, names)
    for name, error in whole.items():
        if between[name] < _ALIKE_DB and _apart(error, without[name]):
            _refuse_disagreement(name, error, without[name], quantized, feeds, expected, names)
    errors = output_errors(expected, usual, names, joined)
    fidelity = Fidelity(len(feeds), judges, errors, _changing(expected, usual, names))
    without = output_errors(expected, plain, names, joined)
    if fidelity.sqnr_db is None:
        return fidelity
    if fidelity.sqnr_db > min(without.values()) - _LOSS_DB and not _plain_saturates(quantized):
        return fidelity
    exact = min(output_errors(expected, _run(quantized, feeds, exact=True), names, joined).values())
    if _exact_saturates(quantized):
        exact = max(exact, min(without.values()))
    return dataclasses.replace(fidelity, exact_db=exact) if exact > fidelity.sqnr_db + _LOSS_DB else fidelity


def _changing(expected: Sequence[Outputs], runs: Sequence[Outputs], names: Sequence[str]) -> frozenset[str]:
    """Return the outputs that have another shape than in the reference in some run."""
    return frozenset(
        name
        for place, name in enumerate(names)
        if any(
            getattr(first[place], "shape", None) != getattr(second[place], "shape", None)
            for first, second in zip(expected, runs, strict=True)
        )
    )


def _run_float(
    reference: Path | onnx.ModelProto, feeds: Sequence[Feeds]
) -> tuple[list[Outputs], list[str], frozenset[str]]:
    """Return the outputs of the float model, their names, and those that may have parts.


    The session is closed then, as it holds all weights.
    """
    runner = Runner(reference, "the float model")
    return [runner.execute(runner.inputs(feed)) for feed in feeds], runner.outputs, runner.joined()


def _run(
    quantized: onnx.ModelProto, feeds: Sequence[Feeds], *, optimize: bool = True, exact: bool = False
) -> list[Outputs]:
    """Return the outputs of a file in one of the two ways."""
    try:
        # without optimizations, every weight is dequantized in every run, and an arena would keep them all
        runner = Runner(quantized, "the quantized file", optimize=optimize, exact=exact, arena=optimize)
        return [runner.execute(runner.inputs(feed)) for feed in feeds]
    except ModelError as error:
        off = "" if optimize else " with onnxruntime's optimizations off"
        raise VerificationError(f"nothing written: {error}{off}; this is a fault of convert-onnx: report it") from error


def _refuse_disagreement(
    name: str,
    error: float,
    plain: float,
    quantized: onnx.ModelProto,
    feeds: Sequence[Feeds],
    expected: Sequence[Outputs],
    names: Sequence[str],
) -> None:
    """Refuse a file whose two ways disagree, unless this processor's 8-bit kernels are the reason.

    x86 without VNNI saturates sums of 8-bit products. Then the kernels that add exactly agree with float. Where these
    cannot be had, the way that may saturate is the worse one.
    """
    if (_plain_saturates(quantized) and plain < error) or (_exact_saturates(quantized) and error < plain):
        return
    exact = output_errors(expected, _run(quantized, feeds, exact=True), names)
    if not _apart(exact[name], plain):
        return
    raise VerificationError(
        f"nothing written: output {name!r} has {decibels(error)} against float, but {decibels(plain)} with "
        "onnxruntime's optimizations off; leave the layers before it in float (`exclude=`), and report it"
    )


def _plain_saturates(quantized: onnx.ModelProto) -> bool:
    """Whether sums saturate with optimizations off: integer operators of the file then have no exact kernels."""
    return has_integer_operators(quantized) and sums_saturate()


def _exact_saturates(quantized: onnx.ModelProto) -> bool:
    """Whether sums saturate with exact kernels: branches and loops do not get them."""
    return quantizes_in_bodies(quantized) and sums_saturate()


def _apart(first: float, second: float) -> bool:
    """Whether two SQNRs cannot be those of one file. Both may be inf."""
    return first != second and abs(first - second) > _APART_DB
