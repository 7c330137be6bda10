"""Conformance of every built-in recipe, target and graph of the zoo: run, rules, or refused with a reason.

python -m benchmarks.targets conformance                     all of it, written to docs/conformance.md
python -m benchmarks.targets conformance --only conv         graphs whose names begin with "conv", printed only

Outcomes are kept in build/conformance for each version of the code: after a stop the same command goes on.
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.shared_data import ROOT
from converter import convert
from converter.cache.source_digest import source_digest
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.recipes.builtin import RECIPES
from converter.targets.catalog import TARGETS, find_target
from converter.verification.fit import fix_batch
from converter.verification.verify import verify
from models.zoo import ZOO, feeds_of
from passes.errors import ConvertError, UsageError

__all__ = ["Outcome", "attempt", "conformance", "report"]

_CALIBRATE, _RUN = 16, 4
_BAD = {"failed", "crashed"}


@dataclass(frozen=True)
class Outcome:
    """Result for one graph, recipe and target.

    Attributes:
        graph: Name of the graph.
        recipe: Name of the recipe.
        target: Name of the target.
        kind: "run", "rules", "refused" (the conversion raised a ConvertError with its reason), "unsupported" (the
            target does not run the float graph either), "failed" (verification failed or could not run), or "crashed"
            (a bug).
        detail: The runtime, the reason, or the failure.
        left: Number of nodes that the provider left to the CPU.
    """

    graph: str
    recipe: str
    target: str
    kind: str
    detail: str
    left: int = 0


_Timed = tuple[list[Outcome], float]  # outcomes of a graph, and seconds


def attempt(graph: str, recipe: str, target: str, folder: Path) -> Outcome:
    """Convert a graph for the target and verify the file on it."""
    model = ZOO[graph]()
    reference, path = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, reference)
    kind = "refused"
    try:
        result = convert(model, feeds_of(model, _CALIBRATE), recipe=recipe, target=target)
        kind = "failed"
        result.save(path)
        data = load_data(feeds_of(model, _RUN, seed=2), input_specs(result.model))
        verification = verify(path, target, data, reference=reference, min_agreement=0.0)
    except ConvertError as error:
        return Outcome(graph, recipe, target, kind, str(error).replace(f"{folder}/", ""))
    except Exception as error:  # this suite looks for tracebacks
        return Outcome(graph, recipe, target, "crashed", f"{type(error).__name__}: {error}")
    if not verification.passed:
        kind = "failed" if verification.how == "rules" or _runs_float(model, target, data, folder) else "unsupported"
        return Outcome(graph, recipe, target, kind, "; ".join(verification.failures[:3]), len(verification.left))
    return Outcome(graph, recipe, target, verification.how, verification.runtime, len(verification.left))


def _runs_float(model: onnx.ModelProto, target: str, data: Dataset, folder: Path) -> bool:
    """Return whether the target runs the float graph, all of it if it must."""
    path = folder / "fixed.onnx"
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fix_batch(fixed, find_target(target))
    onnx.save(fixed, path)
    return verify(path, target, data, min_agreement=0.0).passed


def conformance(graphs: Iterable[str], recipes: Iterable[str], targets: Iterable[str]) -> Iterator[Outcome]:
    """Yield the results of all combinations, graph by graph."""
    recipes, targets = tuple(recipes), tuple(targets)
    for graph in graphs:
        for recipe in recipes:
            for target in targets:
                with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
                    yield attempt(graph, recipe, target, Path(folder))


def report(outcomes: Sequence[Outcome]) -> str:
    """Write the outcomes as Markdown: totals, runtimes, one table for each recipe, and every reason once."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    reasons = _reasons(outcomes)
    lines = [
        "# Conformance",
        "",
        "Written by `make conformance`: every built-in recipe, target and graph of `models/zoo.py`.",
        "*run*: converted, loaded and run on the target, and as near to float as on the CPU. *rules*: the target",
        "cannot be had here; its written rules hold. A number in brackets: nodes that the provider left to the CPU.",
        "*refused*: the conversion says why, below. *unsupported*: the target does not run the float graph either.",
        "",
        f"{len(outcomes)} pairs: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + ".",
        "",
        "| target | ran on |",
        "|---|---|",
        *(f"| {target} | {_runtime(outcomes, target)} |" for target in dict.fromkeys(each.target for each in outcomes)),
    ]
    for recipe in dict.fromkeys(outcome.recipe for outcome in outcomes):
        some = [outcome for outcome in outcomes if outcome.recipe == recipe]
        targets = list(dict.fromkeys(outcome.target for outcome in some))
        lines += ["", f"## {recipe}", "", "| graph | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
        for graph in dict.fromkeys(outcome.graph for outcome in some):
            row = {outcome.target: outcome for outcome in some if outcome.graph == graph}
            lines.append(f"| {graph} | " + " | ".join(_cell(row[target], reasons) for target in targets) + " |")
    if reasons:
        lines += ["", "## Reasons", ""]
        lines += [_wrapped(f"{number}. {reason}") for reason, number in reasons.items()]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False)


def _reasons(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    """Return every different reason with its number."""
    numbers: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.kind not in {"run", "rules"}:
            numbers.setdefault(outcome.detail, len(numbers) + 1)
    return numbers


def _cell(outcome: Outcome, reasons: Mapping[str, int]) -> str:
    if outcome.detail in reasons:
        return f"{outcome.kind} {reasons[outcome.detail]}"
    return f"{outcome.kind} ({outcome.left})" if outcome.left else outcome.kind


def _runtime(outcomes: Sequence[Outcome], target: str) -> str:
    runtimes = {each.detail for each in outcomes if each.target == target and each.kind in {"run", "rules"}}
    return "; ".join(sorted(runtimes)) or "nothing"


def main(only: str = "", out: Path | None = None, jobs: int = 1) -> int:
    """Run the suite. The result is 1 if anything failed or crashed.

    Args:
        only: Beginning of the graphs' names. The default is all graphs.
        out: File for the report. None: it is printed, and no outcome is kept.
        jobs: Number of processes, each with a graph at a time.

    Raises:
        UsageError: No graph's name begins with ``only``.
    """
    graphs = [name for name in ZOO if name.startswith(only)]
    if not graphs:
        names = ", ".join(dict.fromkeys(name.split()[0] for name in ZOO))
        raise UsageError(f"no graph of the zoo is named {only!r} or begins so; names begin with: {names}")
    recipes = tuple(name for name, recipe in RECIPES.items() if not recipe.keeps)
    kept = None if out is None else _kept_outcomes(recipes)
    results = {} if kept is None else _read(kept)
    waiting = [graph for graph in graphs if graph not in results]
    if len(waiting) < len(graphs):
        print(f"{len(graphs) - len(waiting)} of {len(graphs)} graphs are kept in {kept}", flush=True)
    with _mapped(jobs) as mapped:
        runs = mapped(functools.partial(_all_of_graph, recipes=recipes), waiting)
        for graph, (some, seconds) in zip(waiting, runs, strict=True):
            results[graph] = some
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([dataclasses.asdict(outcome) for outcome in some]) + "\n")
            counts = ", ".join(f"{n} {kind}" for kind, n in Counter(outcome.kind for outcome in some).most_common())
            print(f"{len(results)}/{len(graphs)} {graph}: {counts}, {seconds:.0f} s", flush=True)
            for outcome in some:
                if outcome.kind in _BAD:
                    print(f"    {outcome.recipe}, {outcome.target}: {outcome.kind}: {outcome.detail}", flush=True)
    outcomes = [outcome for graph in graphs for outcome in results[graph]]
    text = report(outcomes)
    if out is None:
        print(text)
    else:
        out.parent.mkdir(exist_ok=True)
        out.write_text(text, encoding="utf-8")
        print(text.partition("\n| target")[0].splitlines()[-2])
    return int(any(outcome.kind in _BAD for outcome in outcomes))


def _all_of_graph(graph: str, recipes: tuple[str, ...]) -> _Timed:
    started = time.monotonic()
    return list(conformance([graph], recipes, TARGETS)), time.monotonic() - started


@contextmanager
def _mapped(jobs: int) -> Iterator[Callable[[Callable[[str], _Timed], list[str]], Iterable[_Timed]]]:
    """Yield ``map``, over processes of their own if there are several jobs."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _kept_outcomes(recipes: tuple[str, ...]) -> Path:
    """Return the file for the outcomes of this version of the code, its graphs, recipes and targets."""
    sources = [Path(__file__), *sorted((ROOT / "models").rglob("*.py"))]
    digest = hashlib.sha256(source_digest().encode() + b"".join(path.read_bytes() for path in sources))
    digest.update(repr((recipes, tuple(TARGETS))).encode())
    folder = ROOT / "build" / "conformance"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{digest.hexdigest()[:12]}.jsonl"


def _read(kept: Path) -> dict[str, list[Outcome]]:
    """Return the kept outcomes by graph, and remove a last line that a kill cut off."""
    if not kept.exists():
        return {}
    text = kept.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        kept.write_text(whole, encoding="utf-8")
    graphs = [[Outcome(**fields) for fields in json.loads(line)] for line in whole.splitlines()]
    return {some[0].graph: some for some in graphs}
