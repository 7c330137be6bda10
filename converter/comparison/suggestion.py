"""What would help a quantized model, found by trying: its worst layers in float, one after the other.

The error a layer introduces says where to look, not what it costs: a network forgives some layers more than others. So
the layers that introduce most are made exact in the quantized model (`converter.comparison.float_substitution`), and
what the scores gain is measured. Nothing is suggested that did not gain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.comparison.compare import Comparison
from converter.comparison.float_substitution import in_float
from converter.comparison.matching import match_tensors
from converter.comparison.subgraphs import Subgraph, find_subgraphs
from converter.data.dataset import Dataset
from converter.display.json_values import finite
from converter.display.overview import Glance, Overview
from converter.inspection.inspect import inspect
from converter.model_io.load import read_whole_onnx, upgrade_opset
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from passes.numerics.error import SqnrSum

__all__ = ["GOOD_DB", "WORTH_DB", "Suggestion", "Trial", "suggest"]

GOOD_DB = 30.0  # of scores that are so exact no layer needs help
WORTH_DB = 0.5  # what a layer has to gain to be suggested
_TRIED, _TOGETHER = 8, 3
_IMAGES, _BATCH = 64, 8


@dataclass(frozen=True)
class Trial:
    """Linear layers that are exact together, and what the scores gain by it in dB."""

    layers: tuple[str, ...]
    gain_db: float


@dataclass(frozen=True, repr=False)
class Suggestion(Overview):
    """What to change, and why.

    exclude     layers to leave in float
    bits        weight bits by layer
    gain_db     of the scores with all of these layers exact: what the change can bring at most
    trials      what was tried, the largest gain first
    images      that the trials were measured on
    why         why nothing is suggested; empty if something is
    """

    exclude: tuple[str, ...] = ()
    bits: Mapping[str, int] | None = None
    gain_db: float = 0.0
    trials: tuple[Trial, ...] = ()
    images: int = 0
    why: str = ""

    def overview(self) -> Glance:
        """What to change, and what each trial gained."""
        changes = [*(f"{name} in float" for name in self.exclude)]
        changes += [f"{name} at {bits} bits" for name, bits in (self.bits or {}).items()]
        what = self.why or f"{', '.join(changes)}; the scores gain {self.gain_db:.1f} dB at most"
        rows = tuple((", ".join(trial.layers), f"{trial.gain_db:+.1f} dB") for trial in self.trials)
        return Glance(f"Suggestion: {what}", ("exact layers", "gain"), rows, numbers=(1,))

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `convert` that carry it out."""
        excluded = [part for name in self.exclude for part in ("--exclude", name)]
        more = [part for name, bits in (self.bits or {}).items() for part in ("--bits", f"{name}={bits}")]
        return (*excluded, *more)

    def to_json(self) -> dict[str, Any]:
        """Every field, and the options."""
        values: dict[str, Any] = finite(asdict(self) | {"options": list(self.options)})
        return values


def suggest(
    reference: Path, model: Path, comparison: Comparison, data: Dataset, *, progress: Progress | None = None
) -> Suggestion:
    """Try the layers that introduce the largest errors in float, and say which are worth it.

    Raises:
        ModelError: a model cannot be brought to opset 21, or cannot be run.
    """
    quantized = _quantized(model)
    rows = [row for row in comparison.layers if any(name in quantized for name in row.layers)]
    rows = sorted(rows, key=lambda row: row.introduced_db)[:_TRIED]
    if not quantized:
        swapped = f" and {comparison.reference} has; the float model comes first" if _quantized(reference) else ""
        return Suggestion(why=f"{comparison.model} has no quantized layer{swapped}")
    if not rows:
        return Suggestion(why="no quantized layer lies between tensors that the reference has too")
    if comparison.sqnr_db >= GOOD_DB:
        return Suggestion(why=f"the scores are exact to {GOOD_DB:.0f} dB and more, which no layer spoils")
    bench = _Bench(reference, model, comparison, data.limit(_IMAGES))
    before = bench.sqnr([])
    trials: list[tuple[Trial, Subgraph]] = []
    for done, row in enumerate(rows, start=1):
        subgraph = bench.subgraphs[row.tensor]
        after = bench.sqnr([subgraph])
        if after is not None and before is not None:
            trials.append((Trial(row.layers, after - before), subgraph))
        if progress is not None:
            progress("trying in float", done, len(rows))
    trials.sort(key=lambda trial: -trial[0].gain_db)
    tried = tuple(trial for trial, _ in trials)
    chosen, gain = _chosen(bench, trials, before or 0.0)
    if not chosen:
        best = max((trial.gain_db for trial in tried), default=0.0)
        which = "the layer that adds" if len(tried) == 1 else f"any one of the {len(tried)} layers that add"
        why = f"with {which} most error exact, the scores gain {max(best, 0):.1f} dB at most"
        return Suggestion(trials=tried, images=bench.images, why=why)
    names = [name for subgraph in chosen for name in subgraph.layers if name in quantized]
    bits = {name: 8 for name in names if (quantized[name] or 8) < 8}
    return Suggestion(tuple(name for name in names if name not in bits), bits, gain, tried, bench.images)


def _quantized(model: Path) -> dict[str, int]:
    """Weight bits of the layers that are quantized."""
    return {
        layer.name: layer.weight_bits
        for layer in inspect(model).layers
        if layer.weight_bits is not None and "float" not in layer.storage
    }


class _Bench:
    """The quantized model with any of its cells in float, measured on some images."""

    def __init__(self, reference: Path, model: Path, comparison: Comparison, data: Dataset) -> None:
        self._reference = upgrade_opset(read_whole_onnx(reference), comparison.reference)
        self._model, self._name = upgrade_opset(read_whole_onnx(model), comparison.model), comparison.model
        matches, _ = match_tensors(self._reference.graph, self._model.graph)
        self._others = {match.tensor: match.other for match in matches}
        self.subgraphs = find_subgraphs(self._reference.graph, [row.tensor for row in comparison.layers])
        self._data, self.images = data, len(data)
        self._wanted = list(self._scores(Runner(self._reference, comparison.reference)))

    def sqnr(self, subgraphs: Sequence[Subgraph]) -> float | None:
        """Of the scores in dB; None if the cells cannot stand where the quantized layers do."""
        mixed = in_float(self._model, self._reference, subgraphs, self._others)
        if mixed is None:
            return None
        total = SqnrSum()
        for wanted, given in zip(self._wanted, self._scores(Runner(mixed, self._name)), strict=True):
            total.update(wanted, given)
        return total.db

    def _scores(self, runner: Runner) -> list[NDArray[Any]]:
        runner.outputs = runner.outputs[:1]
        return [np.asarray(runner.run(batch.feeds, batch.count)[0]) for batch in self._data.batches(_BATCH)]


def _chosen(bench: _Bench, trials: Sequence[tuple[Trial, Subgraph]], before: float) -> tuple[list[Subgraph], float]:
    """The best cell if it is worth it, and others as long as each adds to what is gained together."""
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
