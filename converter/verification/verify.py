"""Verify a file on a target: run it there or check the target's rules, and judge the result.

Two implementations of one quantized model round differently, so their outputs differ by about the quantization noise. A
provider is judged correct if its outputs are as near to the float model as the CPU's. Without the float model, it is
judged correct if it picks the same classes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.data.dataset import Dataset
from converter.data.inputs import InputSpec, static_batch
from converter.data.model_data import load_for
from converter.data.preprocess import Preprocess
from converter.display.numbers import NOTHING, decibels, percent
from converter.display.overview import Glance, Overview
from converter.model_io.load import read_onnx
from converter.model_io.open import ModelFile, model_files
from converter.runtime.runner import Runner, class_scores
from converter.runtime.steps import log_step
from converter.targets.catalog import find_target
from converter.targets.target import Target
from converter.verification.environments import find_environment
from converter.verification.promised import older_targets, stands
from converter.verification.provider_run import ProviderRun, run_on_provider
from converter.verification.rules import Violation, violations
from passes.errors import ModelError
from passes.numerics.error import SqnrSum

__all__ = ["MIN_AGREEMENT", "Verification", "verify"]

MIN_AGREEMENT = 0.99
_NOISE_ROWS = 8
_SHOWN = 5  # number of failures in an overview
_WORSE_DB = 1.0  # allowed loss against float, compared with the CPU: another order of rounding costs tenths
_SAME_DB = 30.0  # against the CPU: 3 % apart, the cost of rounding in other places (a PRelu slope to 8 bits: 2 dB)
_FLOOR_DB = 10.0  # against the CPU, on noise, without the float model: wrong kernels are below 0 dB
_BATCH = 16
# Facts of the file's form. A newer runtime than the promised one may accept more of them.
_FORMAT = frozenset({"opset", "static_shapes", "narrowest", "matmulnbits"})

_CONVERT = "convert the float model with `target={!r}`"

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, repr=False)
class Verification(Overview):
    """Result of a verification. Its fields are the keys of its JSON.

    Attributes:
        model: The file.
        target: Name of the target.
        how: "run" or "rules".
        runtime: Runtime that ran the file, or why it did not run.
        nodes: Number of nodes that the provider took. None if the runtime does not tell.
        left: Nodes that the provider left to another one.
        images: Number of rows that ran.
        agreement: Fraction of rows with the same highest score as on the CPU. None unless the output is [n, classes].
        sqnr_db: SQNR of the outputs against the CPU's, for the worst output.
        float_db: SQNR of the outputs against the float model's, for the worst output.
        cpu_float_db: The same for the CPU's outputs.
        violations: Violations of the target's rules. If the file ran, only those of its form count. The others are
            advice.
        failures: Why the verification failed. Empty if it passed.
        next_step: What to do about the failures. Empty if there are none.
        notes: What the run cannot tell.
    """

    model: str
    target: str
    how: str
    runtime: str
    nodes: int | None = None
    left: tuple[str, ...] = ()
    images: int = 0
    agreement: float | None = None
    sqnr_db: float | None = None
    float_db: float | None = None
    cpu_float_db: float | None = None
    violations: tuple[Violation, ...] = ()
    failures: tuple[str, ...] = ()
    next_step: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether there are no failures."""
        return not self.failures

    def overview(self) -> Glance:
        """The verdict, and the measurements behind it."""
        rows = [("checked by", f"{self.how}: {self.runtime}" if self.runtime else self.how)]
        if self.how == "run":
            rows += [
                ("nodes taken", NOTHING if self.nodes is None else str(self.nodes)),
                ("nodes run by other providers", NOTHING if self.nodes is None else str(len(self.left))),
                ("agreement with the CPU", percent(self.agreement)),
                ("SQNR against the CPU", decibels(self.sqnr_db)),
                ("SQNR against float", decibels(self.float_db)),
            ]
        rows += [("failure", failure) for failure in self.failures[:_SHOWN]]
        more = len(self.failures) - _SHOWN
        notes = [*([f"and {more} more failures"] if more > 0 else []), *([self.next_step] if self.next_step else [])]
        verdict = "passed" if self.passed else "failed"
        headline = f"Verification of {self.model} on {self.target}: {verdict}"
        return Glance(headline, ("what", "found"), tuple(rows), (*notes, *self.notes))

    def to_json(self) -> dict[str, Any]:
        """The fields, with null for an infinite SQNR (no difference at all)."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return finite | {"passed": self.passed}


def verify(
    model: Any,
    target: str,
    data: Any = None,
    *,
    reference: Any = None,
    runtime: str | Path | None = None,
    min_agreement: float = MIN_AGREEMENT,
    limit: int | None = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
) -> Verification:
    """Run a quantized model on its target, or check the target's rules if the target is not available.

    Args:
        model: Path of an .onnx file, or an onnx.ModelProto.
        target: Name of the target.
        data: Data to run, in a form of `converter.load_data`, or a Dataset. Without data, 8 rows of noise are run, and
            agreement is not judged.
        reference: The float model, in the same forms as ``model``.
        runtime: Interpreter, virtual environment or npm folder that has the target's provider.
        min_agreement: Least agreement with the CPU on the data.
        limit: Number of images to use.
        preprocess: Preprocessing of uint8 data. It overrides the model's metadata.

    Raises:
        TargetError: The target does not exist, or ``runtime`` is no environment or lacks the target's provider.
        ModelError: A file cannot be read, or fails on the CPU.
        ConvertError: Any other problem that the user can fix.
    """
    chosen = find_target(target)
    models = [model] if reference is None else [model, reference]
    with log_step("verify"), model_files(models) as files:
        quantized, path = files[0], None if reference is None else files[1].path
        if path is not None:
            read_onnx(path)
        rows = data if data is None or isinstance(data, Dataset) else load_for([quantized], data, preprocess, limit)
        runtime_path = None if runtime is None else Path(runtime)
        return _verified(quantized, chosen, rows, path, runtime_path, min_agreement)


def _verified(
    file: ModelFile,
    chosen: Target,
    data: Dataset | None,
    reference: Path | None,
    runtime: Path | None,
    min_agreement: float,
) -> Verification:
    model, target = file.path, chosen.name
    broken_rules = violations(model, chosen)
    environment = find_environment(chosen, runtime)
    if isinstance(environment, str):
        failures = tuple(f"{each.fact}: {each.what}" for each in broken_rules)
        next_step = _CONVERT.format(target) if failures else ""
        return Verification(
            file.name, target, "rules", environment, violations=broken_rules, failures=failures, next_step=next_step
        )
    cpu = Runner(model, file.name)
    feeds = _noise(cpu) if data is None else _rows(cpu, data)
    batch = static_batch(cpu.specs) or 1
    feeds = {name: _whole_batches(rows, batch) for name, rows in feeds.items()}
    ran = run_on_provider(model, chosen, environment, feeds, batch)
    broken = tuple(f"{each.fact}: {each.what}" for each in broken_rules if each.fact in _FORMAT)
    verdict = Verification(
        file.name,
        target,
        "run",
        ran.runtime,
        ran.nodes,
        ran.left,
        violations=broken_rules,
        failures=broken,
        notes=_notes(chosen, ran),
    )
    if ran.error:
        where = f"it does not run on {ran.runtime}" if ran.runtime else "it does not run"
        verdict = _with(verdict, failures=(f"{where}: {ran.error}", *broken))
    else:
        verdict = _judge_outputs(verdict, chosen, ran, cpu, feeds, reference, None if data is None else min_agreement)
    return verdict if verdict.passed else _with(verdict, next_step=_next_step(verdict, chosen))


def _judge_outputs(
    verdict: Verification,
    target: Target,
    ran: ProviderRun,
    cpu: Runner,
    feeds: Outputs,
    reference: Path | None,
    min_agreement: float | None,
) -> Verification:
    """Extend the verdict by a comparison of the outputs."""
    images = len(next(iter(feeds.values())))
    expected = _outputs(cpu, feeds, images)
    failures = list(verdict.failures)
    if ran.nodes == 0 and ran.left:
        failures.append(f"the provider runs no node: all {len(ran.left)} run on another one")
    elif target.whole:
        failures += [f"{name} runs on another provider" for name in ran.left]
    bad = [name for name, rows in ran.outputs.items() if not np.isfinite(rows.astype(np.float64)).all()]
    wrong = [name for name, rows in expected.items() if ran.outputs[name].shape != rows.shape]
    failures += [f"output {name} holds NaN or Inf" for name in bad] + [
        f"output {name} has another shape than on the CPU" for name in wrong
    ]
    if bad or wrong:
        return _with(verdict, images=images, failures=tuple(failures))
    agreement, sqnr = _agreement(expected, ran.outputs), _worst(expected, ran.outputs)
    if agreement is not None and min_agreement is not None and agreement < min_agreement:
        failures.append(f"agreement with the CPU is {100 * agreement:.1f} %, below {100 * min_agreement:g} %")
    float_db = cpu_float_db = None
    if reference is not None:
        floats = _outputs(Runner(reference, str(reference)), feeds, images)
        if list(floats) != list(expected):
            raise ModelError(f"{reference}: its outputs are {', '.join(floats)}, not {', '.join(expected)}")
        float_db, cpu_float_db = _worst(floats, ran.outputs), _worst(floats, expected)
        if float_db < cpu_float_db - _WORSE_DB and sqnr < _SAME_DB:
            failures.append(f"{float_db:.1f} dB against float, where the CPU has {cpu_float_db:.1f} dB")
    elif sqnr < _FLOOR_DB:
        failures.append(f"{sqnr:.1f} dB against the CPU, below {_FLOOR_DB:g} dB; give `reference=` to judge by float")
    return _with(
        verdict,
        images=images,
        agreement=agreement,
        sqnr_db=sqnr,
        float_db=float_db,
        cpu_float_db=cpu_float_db,
        failures=tuple(failures),
    )


def _notes(target: Target, ran: ProviderRun) -> tuple[str, ...]:
    """Limits of a run that a reader could overlook."""
    notes = []
    if stands(target.runtime, ran.runtime) == "newer":
        notes.append(f"{ran.runtime} is newer than {target.runtime}, the oldest that target {target.name} supports")
    if ran.nodes is None and not ran.error:
        notes.append(f"{ran.runtime} does not report which nodes the provider runs")
    return tuple(notes)


def _next_step(verdict: Verification, target: Target) -> str:
    """Advice: a newer runtime, a file in another form, or another version of the runtime."""
    reconvert = _CONVERT.format(target.name)
    if stands(target.runtime, verdict.runtime) == "older":
        others = older_targets(target, verdict.runtime)
        other = f", or convert the float model with `target=` {' or '.join(others)}" if others else ""
        return f"target {target.name} needs {target.runtime} or newer{other}"
    if verdict.violations or verdict.left or target.provider is None:
        return reconvert
    return f"{reconvert} if it was written for another one; else try another version of the runtime"


def _with(verdict: Verification, **changes: Any) -> Verification:
    return Verification(**{**vars(verdict), **changes})


def _noise(runner: Runner) -> dict[str, NDArray[Any]]:
    """Rows of standard normal numbers for float inputs and of zeros for integer inputs, in the model's own sizes."""
    rows = max(_NOISE_ROWS, runner.batch or 0)
    rng = np.random.default_rng(0)
    return {spec.name: _noise_of(spec, rows, rng, runner) for spec in runner.specs}


def _noise_of(spec: InputSpec, rows: int, rng: np.random.Generator, runner: Runner) -> NDArray[Any]:
    if None in spec.shape[1:]:
        raise ModelError(f"{runner.name}: takes {spec}, whose sizes are not fixed; give `data=`")
    shape = (rows, *(size or 1 for size in spec.shape[1:]))
    values = rng.standard_normal(shape) if spec.dtype.kind == "f" else np.zeros(shape)
    return values.astype(spec.dtype)


def _rows(runner: Runner, data: Dataset) -> dict[str, NDArray[Any]]:
    """All rows of the data, under the model's input names."""
    parts = [
        {name: rows[: batch.count] for name, rows in runner.inputs(batch.feeds).items()}
        for batch in data.batches(_BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _whole_batches(rows: NDArray[Any], batch: int) -> NDArray[Any]:
    """Cut the rows to a multiple of the fixed batch size. If there are too few rows, repeat the last one."""
    if len(rows) >= batch:
        return rows[: len(rows) // batch * batch]
    return np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), 0)])


def _outputs(runner: Runner, feeds: Outputs, count: int) -> dict[str, NDArray[Any]]:
    """The CPU's outputs. Rows run in batches of the same size as on the provider."""
    step = runner.batch or 1
    parts = [
        runner.run({name: rows[start : start + step] for name, rows in feeds.items()}, min(step, count - start))
        for start in range(0, count, step)
    ]
    return {
        name: np.concatenate([np.atleast_1d(part) for part in each])
        for name, each in zip(runner.outputs, zip(*parts, strict=True), strict=True)
    }


def _agreement(expected: Outputs, actual: Outputs) -> float | None:
    name = next(iter(expected))
    expected_scores, actual_scores = class_scores(expected[name]), class_scores(actual[name])
    if expected_scores is None or actual_scores is None or expected_scores.shape[1] < 2:
        return None
    return float((expected_scores.argmax(axis=1) == actual_scores.argmax(axis=1)).mean())


def _worst(expected: Outputs, actual: Outputs) -> float:
    """SQNR of the worst float output."""
    values = []
    for name, rows in expected.items():
        if rows.dtype.kind == "f":
            total = SqnrSum()
            total.update(rows, actual[name])
            values.append(total.db)
    return min(values, default=math.inf)
