"""Suggestions for a quantized model. Each of its worst layers is tried in float, and the gain is measured.

The error that a layer introduces does not say how much it costs at the output, because a network tolerates errors of
some layers better than of others. So the layers with the largest introduced errors are computed in float within the
quantized model (`converter.comparison.float_substitution`), and the gain of the worst output is measured. A change
without a measured gain is never suggested.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.comparison.compare import Comparison
from converter.comparison.float_substitution import in_float
from converter.comparison.matching import match_tensors
from converter.comparison.subgraphs import Subgraph, find_subgraphs
from converter.data.dataset import Dataset
from converter.data.model_data import models_on_data
from converter.data.preprocess import Preprocess
from converter.display.json_values import fields_as_json
from converter.display.overview import Glance, Overview
from converter.inspection.inspect import inspect
from converter.model_io.load import read_whole_onnx, upgrade_opset
from converter.model_io.open import ExportOptions
from converter.runtime.output_errors import OutputErrors
from converter.runtime.runner import Runner
from converter.runtime.session import Progress, no_progress
from converter.runtime.stacking import samples_alone
from converter.runtime.steps import log_step
from passes.arguments import require_type

__all__ = ["GOOD_DB", "WORTH_DB", "Suggestion", "Trial", "suggest"]

GOOD_DB = 30.0  # SQNR of the worst output from which on no layer needs a change
WORTH_DB = 0.5  # a layer is suggested if it gains at least this much
_TRIED, _TOGETHER = 8, 3
_IMAGES, _BATCH = 64, 8


@dataclass(frozen=True)
class Trial:
    """Linear layers that were computed in float together, and the gain of the worst output in dB."""

    layers: tuple[str, ...]
    gain_db: float


@dataclass(frozen=True, repr=False)
class Suggestion(Overview):
    """Suggested changes and their reasons.

    Attributes:
        exclude: Layers to leave in float.
        bits: Weight bits by layer.
        gain_db: Gain of the worst output in dB with all of these layers in float: the most that the change can gain.
        trials: All trials, largest gain first.
        images: Number of images that the trials were measured on.
        why: Reason why nothing is suggested. Empty if there is a suggestion.
    """

    exclude: tuple[str, ...] = ()
    bits: Mapping[str, int] | None = None
    gain_db: float = 0.0
    trials: tuple[Trial, ...] = ()
    images: int = 0
    why: str = ""

    def overview(self) -> Glance:
        """Return the suggested changes and the gain of each trial."""
        changes = [*(f"{name} in float" for name in self.exclude)]
        changes += [f"{name} at {bits} bits" for name, bits in (self.bits or {}).items()]
        what = self.why or f"{', '.join(changes)}; the scores gain at most {self.gain_db:.1f} dB"
        rows = tuple((", ".join(trial.layers), f"{trial.gain_db:+.1f} dB") for trial in self.trials)
        return Glance(f"Suggestion: {what}", ("exact layers", "gain"), rows, numbers=(1,))

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return fields_as_json(self)


def suggest(
    reference: Any,
    model: Any,
    comparison: Comparison,
    data: Any,
    *,
    limit: int | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Suggestion:
    """Try the layers with the largest introduced errors in float, and suggest those that gain enough.

    Args:
        reference: The float model, as in `converter.compare`.
        model: The quantized model, as in `converter.compare`.
        comparison: Result of `converter.compare` for the two models.
        data: Images, as in `converter.compare`. The first 64 are used.
        limit: Largest number of images. The default is all.
        export: Weights and input shape of torch models.
        preprocess: Preprocessing of uint8 data. It overrides what the models store.
        progress: Called with "trying in float", the number of layers that are done, and the number of all layers.

    Raises:
        ModelError: A model cannot be converted to opset 21, or cannot be run.
        ConvertError: Any other error that a user can correct.
    """
    require_type("comparison", comparison, Comparison, "the result of converter.compare")
    names = (comparison.reference, comparison.model)
    with (
        log_step("suggest"),
        models_on_data([reference, model], data, names=names, limit=limit, export=export, preprocess=preprocess) as on,
    ):
        first, second = on.paths
        return _suggested(first, second, comparison, on.data, progress)


def _suggested(reference: Path, model: Path, comparison: Comparison, data: Dataset, progress: Progress) -> Suggestion:
    """Choose the layers to change, those with the largest gain first."""
    quantized = _quantized(model)
    rows = [row for row in comparison.layers if any(name in quantized for name in row.layers)]
    rows = sorted(rows, key=lambda row: row.introduced_db)[:_TRIED]
    if not quantized:
        swapped = f", but {comparison.reference} has; give the float model first" if _quantized(reference) else ""
        return Suggestion(why=f"{comparison.model} has no quantized layer{swapped}")
    if not rows:
        return Suggestion(why="no quantized layer lies between tensors that the reference has too")
    if comparison.sqnr_db >= GOOD_DB:
        return Suggestion(why=f"the worst output has {GOOD_DB:.0f} dB or more, so no layer needs a change")
    bench = _FloatTrials(reference, model, comparison, data.limit(_IMAGES))
    before = bench.sqnr([])
    trials: list[tuple[Trial, Subgraph]] = []
    for done, row in enumerate(rows, start=1):
        subgraph = bench.subgraphs[row.tensor]
        after = bench.sqnr([subgraph])
        if after is not None and before is not None:
            trials.append((Trial(row.layers, after - before), subgraph))
        progress("trying in float", done, len(rows))
    trials.sort(key=lambda trial: -trial[0].gain_db)
    tried = tuple(trial for trial, _ in trials)
    chosen, gain = _chosen(bench, trials, before or 0.0)
    if not chosen:
        best = max((trial.gain_db for trial in tried), default=0.0)
        which = "the layer" if len(tried) == 1 else f"any one of the {len(tried)} layers"
        what = "that adds most error" if len(tried) == 1 else "that add most error"
        why = f"computing {which} {what} in float raises the SQNR by at most {max(best, 0):.1f} dB"
        return Suggestion(trials=tried, images=bench.images, why=why)
    names = [name for subgraph in chosen for name in subgraph.layers if name in quantized]
    bits = {name: 8 for name in names if (quantized[name] or 8) < 8}
    return Suggestion(tuple(name for name in names if name not in bits), bits, gain, tried, bench.images)


def _quantized(model: Path) -> dict[str, int]:
    """Return the weight bits of the quantized layers."""
    return {
        layer.name: layer.weight_bits
        for layer in inspect(model).layers
        if layer.weight_bits is not None and "float" not in layer.storage
    }


class _FloatTrials:
    """Measures the quantized model with any of its subgraphs in float."""

    def __init__(self, reference: Path, model: Path, comparison: Comparison, data: Dataset) -> None:
        self._reference = upgrade_opset(read_whole_onnx(reference), comparison.reference)
        self._model, self._name = upgrade_opset(read_whole_onnx(model), comparison.model), comparison.model
        matches, _ = match_tensors(self._reference.graph, self._model.graph)
        self._others = {match.tensor: match.other for match in matches}
        self.subgraphs = find_subgraphs(self._reference.graph, [row.tensor for row in comparison.layers])
        self.images = len(data)
        runner = Runner(self._reference, comparison.reference)
        self._data = samples_alone(data, runner)
        self._size = runner.batch_size(data, _BATCH)
        self._wanted, self._joined = list(self._outputs(runner)), runner.joined()

    def sqnr(self, subgraphs: Sequence[Subgraph]) -> float | None:
        """Return the SQNR of the worst output in dB. None if the subgraphs cannot replace the quantized layers."""
        mixed = in_float(self._model, self._reference, subgraphs, self._others)
        if mixed is None:
            return None
        errors = OutputErrors(self._joined)
        for wanted, given in zip(self._wanted, self._outputs(Runner(mixed, self._name)), strict=True):
            errors.update(wanted, given)
        return min(errors.db().values(), default=math.inf)

    def _outputs(self, runner: Runner) -> Iterator[dict[str, Any]]:
        for batch in self._data.batches(self._size):
            yield dict(zip(runner.outputs, runner.run(batch), strict=True))


def _chosen(
    bench: _FloatTrials, trials: Sequence[tuple[Trial, Subgraph]], before: float
) -> tuple[list[Subgraph], float]:
    """Choose the best subgraph if it gains enough, then others as long as each adds enough to the common gain."""
    chosen: list[Subgraph] = []
    gain = 0.0
    for trial, subgraph in trials[:_TOGETHER]:
        if trial.gain_db < WORTH_DB:
            break
        together = trial.gain_db if not chosen else (bench.sqnr([*chosen, subgraph]) or 0.0) - before
        if together < gain + WORTH_DB:
            break
        chosen, gain = [*chosen, subgraph], together
    return chosen, gain
