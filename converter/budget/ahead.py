"""What a search will need, measured by several processes before it starts.

A search is a chain: each attempt follows from those before it. But what each layer costs, and the first attempts, need
nothing of each other. They are measured first, and put into the cache of the search, which then finds them there.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.budget.candidate_builder import CandidateBuilder
from converter.budget.held_out_judge import Judge
from converter.budget.limits import Budget
from converter.data.dataset import Dataset
from converter.engine.engine import Engine
from converter.engine.shelf import Item, Shelf
from converter.model_io.sizes import fits_one_file
from converter.pipeline.fixed_sums import fixed_sums
from converter.pipeline.settings import Settings
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress, no_progress
from converter.targets.catalog import find_target
from passes.errors import QuantizationError, UsageError

__all__ = ["measure_ahead"]

_PARTS = 2  # tasks of effects for each worker, so that no worker waits long for the last one


@dataclass(frozen=True)
class _Search:
    """All that a worker needs to measure for a search."""

    source: bytes
    reference: bytes | Path
    fit: Dataset
    held_out: Dataset
    classes: bool
    budget: Budget
    target: str
    settings: Settings
    cache: Path | None


@dataclass(frozen=True)
class _Task:
    """One measurement: a file by a recipe, or the effects of some layers."""

    shelf: Shelf
    search: Item
    recipe: Recipe
    part: int | None = None
    parts: int = 1


def measure_ahead(
    builder: CandidateBuilder,
    recipes: Sequence[Recipe],
    effects_of: Recipe | None,
    engine: Engine,
    progress: Progress,
) -> None:
    """Measure attempts and the effects of layers on workers, and put them into the builder's cache.

    Args:
        builder: Makes the attempts of the search. It has a cache.
        recipes: Recipes of attempts.
        effects_of: Recipe whose layers are quantized alone. None: the search needs no effects.
        engine: Where the work runs.
        progress: Called with "measuring", the number of tasks that are done, and the number of all.

    Raises:
        QuantizationError: The workers of a task died again and again.
    """
    recipes = [each for each in recipes if builder.cache_of(each).load("attempt") is None]
    parts = _PARTS * engine.workers
    if effects_of is not None and builder.cache_of(effects_of).load("effect-0000") is not None:
        effects_of = None  # an earlier search has measured some, and this one goes on with them
    if not recipes and effects_of is None:
        return
    shelf, search = engine.shelf, engine.shelf.put(_described(builder, engine))
    tasks = [_Task(shelf, search, each) for each in recipes]
    tasks += [] if effects_of is None else [_Task(shelf, search, effects_of, part, parts) for part in range(parts)]
    progress("measuring", 0, len(tasks))
    for done, (index, item) in enumerate(engine.results(_carried_out, tasks, _lost)):
        cache = builder.cache_of(tasks[index].recipe)
        for name, arrays in shelf.get(item).items():
            cache.store(name, arrays)
        progress("measuring", done + 1, len(tasks))


def _described(builder: CandidateBuilder, engine: Engine) -> _Search:
    if not fits_one_file(builder.source):
        raise UsageError("`workers=`: a model above 2 GB does not travel to other processes; leave it out")
    reference = builder.judge.reference if engine.shares_disk else builder.source
    settings = dataclasses.replace(builder.settings, cache=None, checkpoint=None)
    return _Search(
        source=builder.source.SerializeToString(),
        reference=reference.absolute() if isinstance(reference, Path) else reference.SerializeToString(),
        fit=builder.fit.for_processes(shares_disk=engine.shares_disk),
        held_out=builder.judge.data.for_processes(shares_disk=engine.shares_disk),
        classes=builder.budget.max_drop is not None,
        budget=builder.budget,
        target=builder.target.name,
        settings=settings,
        cache=None if builder.cache_folder is None or not engine.shares_disk else builder.cache_folder.absolute(),
    )


def _carried_out(task: _Task) -> Item:
    """Measure in any process. Return the arrays by their names in the cache of the search."""
    search: _Search = task.shelf.kept(task.search)
    with fixed_sums(search.settings.deterministic, learns=False):
        builder = _builder(task.shelf, task.search)
        if task.part is None:
            return task.shelf.put({"attempt": builder.measured(task.recipe)})
        return task.shelf.put(builder.some_effects(task.recipe, task.part, task.parts))


@functools.lru_cache(maxsize=1)
def _builder(shelf: Shelf, item: Item) -> CandidateBuilder:
    """Return the builder of a search, which a process makes once: its judge runs the float network."""
    search: _Search = shelf.kept(item)
    reference = search.reference if isinstance(search.reference, Path) else onnx.ModelProto.FromString(search.reference)
    judge = Judge(reference, search.held_out, classes=search.classes, metric=search.settings.metric)
    return CandidateBuilder(
        onnx.ModelProto.FromString(search.source),
        search.fit,
        judge,
        search.budget,
        find_target(search.target),
        search.settings,
        search.cache,
        no_progress,
    )


def _lost(task: _Task, reason: str) -> Any:
    what = f"a file by {task.recipe.name}" if task.part is None else "the effects of layers"
    raise QuantizationError(f"{what} cannot be measured: {reason}; give fewer `workers=`, or more `worker_memory=`")
