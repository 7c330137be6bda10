"""Verify a file on a target: run it there or check the target's rules, and judge the result."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from converter.data.dataset import Batch, Dataset
from converter.data.inputs import InputSpec
from converter.data.judged_files import judged_files
from converter.data.model_data import load_for
from converter.data.preprocess import Preprocess
from converter.display.numbers import NOTHING, decibels, percent
from converter.display.overview import Glance, Overview
from converter.model_io.load import read_onnx
from converter.model_io.malformed import refusing_malformed
from converter.model_io.open import ModelFile, model_files
from converter.model_io.scratch import scratch_folder
from converter.runtime.runner import Runner
from converter.runtime.steps import log_step
from converter.targets.catalog import find_target
from converter.targets.target import Target
from converter.verification.environments import find_environment
from converter.verification.judge import judge
from converter.verification.promised import older_targets, stands
from converter.verification.provider_run import ProviderRun, run_on_provider
from converter.verification.rules import Violation, violations
from converter.verification.runs import all_finite, data_runs, noise_runs, outputs_of, unlike_runs
from passes.errors import ModelError

__all__ = ["Verification", "verify"]

_SHOWN = 5  # number of failures in an overview
# Facts of the file's form. A newer runtime than the promised one may accept more of them.
_FORMAT = frozenset({"opset", "static_shapes", "narrowest", "matmulnbits"})

_CONVERT = "convert the float model with `target={!r}`"


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
        agreement: Fraction of samples with the same highest score as on the CPU. None unless the first output is
            [n, classes] for n samples: the cells of a detector are none.
        sqnr_db: SQNR of the outputs against the CPU's, for the worst output.
        float_db: SQNR of the outputs against the float model's, for the worst output.
        cpu_float_db: The same for the CPU's outputs.
        outputs: SQNR of every float output, or of its parts, by name: against the float model's if there is one, else
            against the CPU's.
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
    outputs: dict[str, float] = field(default_factory=dict)
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
            rows += [(f"SQNR of {name}", decibels(db)) for name, db in self.outputs.items() if len(self.outputs) > 1]
        rows += [("failure", failure) for failure in self.failures[:_SHOWN]]
        more = len(self.failures) - _SHOWN
        notes = [*([f"and {more} more failures"] if more > 0 else []), *([self.next_step] if self.next_step else [])]
        verdict = "passed" if self.passed else "failed"
        headline = f"Verification of {self.model} on {self.target}: {verdict}"
        return Glance(headline, ("what", "found"), tuple(rows), (*notes, *self.notes))

    def to_json(self) -> dict[str, Any]:
        """The fields, with null for an infinite SQNR (no difference at all)."""
        outputs = {name: _finite(db) for name, db in self.outputs.items()}
        return {key: _finite(value) for key, value in asdict(self).items()} | {
            "outputs": outputs,
            "passed": self.passed,
        }


def verify(
    model: Any,
    target: str,
    data: Any = None,
    *,
    reference: Any = None,
    runtime: str | Path | None = None,
    min_agreement: float | None = None,
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
        min_agreement: Least agreement with the CPU on the data. The default is 0.99, and with a ``reference`` a file
            that agrees less passes if it agrees with the float model as often as the CPU does: rounding changes the
            highest number of outputs that are no class scores, such as embeddings.
        limit: Number of images to use.
        preprocess: Preprocessing of uint8 data. It overrides the model's metadata.

    Raises:
        TargetError: The target does not exist, or ``runtime`` is no environment or lacks the target's provider.
        ModelError: A file cannot be read, or fails on the CPU.
        ConvertError: Any other problem that the user can fix.
    """
    chosen = find_target(target)
    models = [model] if reference is None else [model, reference]
    with log_step("verify"), model_files(models) as given, scratch_folder() as folder:
        files = judged_files(given, folder)
        quantized, floats = files[0], None if reference is None else files[1]
        if floats is not None:
            read_onnx(floats.path)
        rows = data if data is None or isinstance(data, Dataset) else load_for([quantized], data, preprocess, limit)
        runtime_path = None if runtime is None else Path(runtime)
        return _verified(quantized, chosen, rows, floats, runtime_path, min_agreement)


def _takes(inputs: Sequence[InputSpec], others: Sequence[InputSpec]) -> bool:
    """Whether a model takes what another one takes: the same types, and the same sizes where its own are not open."""
    if [(spec.name, spec.dtype, len(spec.shape)) for spec in inputs] != [
        (spec.name, spec.dtype, len(spec.shape)) for spec in others
    ]:
        return False
    pairs = [
        pair for one, other in zip(inputs, others, strict=True) for pair in zip(one.shape, other.shape, strict=True)
    ]
    return all(size is None or size == other for size, other in pairs)


def _verified(
    file: ModelFile,
    chosen: Target,
    data: Dataset | None,
    reference: ModelFile | None,
    runtime: Path | None,
    min_agreement: float | None,
) -> Verification:
    model, whole, target = file.path, file.given or file.path, chosen.name
    with refusing_malformed(file.name):
        broken_rules = violations(whole, chosen)
    environment = find_environment(chosen, runtime)
    if isinstance(environment, str):
        failures = tuple(f"{each.fact}: {each.what}" for each in broken_rules)
        next_step = _CONVERT.format(target) if failures else ""
        return Verification(
            file.name, target, "rules", environment, violations=broken_rules, failures=failures, next_step=next_step
        )
    cpu = Runner(model, file.name)
    runs = noise_runs(cpu) if data is None else data_runs(cpu, data)
    feeds = [run.feeds for run in runs]
    ran = run_on_provider(model, chosen, environment, feeds)
    if whole != model and not ran.error and _takes(Runner(whole, file.name).specs, cpu.specs):
        # The outputs of a copy are compared, such as the scores in place of the class. The file itself must run too.
        itself = run_on_provider(whole, chosen, environment, feeds)
        ran = dataclasses.replace(ran, error=itself.error, nodes=itself.nodes, left=itself.left)
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
        verdict = _judge_outputs(
            verdict, chosen, ran, cpu, runs, reference, min_agreement, has_classes=data is not None
        )
    return verdict if verdict.passed else _with(verdict, next_step=_next_step(verdict, chosen))


def _judge_outputs(
    verdict: Verification,
    target: Target,
    ran: ProviderRun,
    cpu: Runner,
    runs: Sequence[Batch],
    reference: ModelFile | None,
    min_agreement: float | None,
    *,
    has_classes: bool,
) -> Verification:
    """Extend the verdict by a comparison of the outputs."""
    images = sum(run.count for run in runs)
    expected = outputs_of(cpu, runs)
    failures = list(verdict.failures)
    if ran.nodes == 0 and ran.left:
        failures.append(f"the provider runs no node: all {len(ran.left)} run on another one")
    elif target.whole:
        failures += [f"{name} runs on another provider" for name in ran.left]
    names = list(expected[0])
    bad = [name for name in names if not all_finite(run[name] for run in ran.outputs if name in run)]
    odd = {name: unlike_runs(name, expected, ran.outputs, cpu) for name in names}
    wrong = [name for name, count in odd.items() if count == len(runs)]
    failures += [f"output {name} holds NaN or Inf" for name in bad] + [
        f"output {name} has another shape than on the CPU" for name in wrong
    ]
    if bad or wrong:
        return _with(verdict, images=images, failures=tuple(failures))
    floats = None
    if reference is not None:
        floats = outputs_of(Runner(reference.path, reference.name), runs)
        if list(floats[0]) != names:
            raise ModelError(f"{reference.name}: its outputs are {', '.join(floats[0])}, not {', '.join(names)}")
    found = judge(
        runs,
        ran.outputs,
        expected,
        floats,
        joined=cpu.joined(),
        min_agreement=min_agreement,
        has_classes=has_classes,
    )
    some = tuple(
        f"output {name} has another size than the CPU's in {count} of {len(runs)} runs, which are not compared"
        for name, count in odd.items()
        if count
    )
    judged = {
        **vars(found),
        "failures": (*failures, *found.failures),
        "notes": (*verdict.notes, *some, *found.notes),
    }
    return _with(verdict, images=images, **judged)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
