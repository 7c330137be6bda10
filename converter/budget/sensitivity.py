"""Sensitivity: what rounding each weight and each activation of a model costs at its outputs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.cache.folder import Cache
from converter.cache.source_digest import source_digest
from converter.data.dataset import Dataset
from converter.data.judging import Judging
from converter.data.preprocess import Preprocess
from converter.engine.workers import Workers, opened
from converter.error_sources.measure import ErrorSource, measure
from converter.error_sources.sensitivity import Sensitivity
from converter.model_io.open import ExportOptions
from converter.model_io.sizes import model_digest
from converter.pipeline.convert import run_passes
from converter.pipeline.fixed_sums import fixed_sums
from converter.pipeline.prepare import Prepared, prepare
from converter.pipeline.result import versions
from converter.pipeline.settings import Settings
from converter.recipes.builtin import find_recipe, learning_on
from converter.recipes.overrides import with_layers
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.recipes.toml import dump_recipe
from converter.runtime.few_samples import Feeds, real_feeds
from converter.runtime.session import Progress, no_progress
from converter.runtime.steps import log_step
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.arguments import require_type, whole
from passes.errors import UsageError

__all__ = ["error_sources", "sensitivity"]

_CACHED = "sensitivity"  # name of the arrays in a cache

_JUDGING = 8  # samples that judge, unless a call says otherwise


def sensitivity(
    model: Any,
    data: Any,
    *,
    recipe: str | Path | Recipe = "int8",
    target: str = DEFAULT_TARGET,
    exclude: Sequence[str] = (),
    bits: Mapping[str, int] | None = None,
    samples: int = _JUDGING,
    cache: str | Path | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    workers: Workers = Workers(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Sensitivity:
    """Measure what rounding each weight and each activation costs at the outputs of a model.

    The recipe's passes choose grids and codes. Then one weight or activation at a time is rounded in the float network,
    and all outputs are compared with those of the exact network. The error powers add up to about that of the file.

    Args:
        model, recipe, target, exclude, bits, export, preprocess, progress: As in `converter.convert`.
        data: Data that calibrate, as ``calibration`` in `converter.convert`.
        samples: Number of samples that judge and do not calibrate. If there are too few, the same do both.
        cache: Folder for the result. The same call reads it from there.
        settings: As in `converter.convert`: images, seed and memory.
        workers: Processes that measure the roundings, each on its own. By default, this process does.

    Raises:
        ConvertError: Any problem that the user can fix. The message says how.
    """
    require_type("settings", settings, Settings, "converter.Settings(...)")
    samples = whole("samples", samples)
    if samples < 1:
        raise UsageError(f"`samples={samples}` judges nothing; use at least 1")
    plan = with_layers(learning_on(find_recipe(recipe), settings.device), exclude, bits)
    if plan.keeps or plan.trains:
        raise UsageError(f"recipe {plan.name!r} does not choose codes by calibration; use one such as int8 or int4")
    chosen = find_target(target)
    with log_step("sensitivity"), fixed_sums(settings.deterministic, learns=plan.learns):
        job = prepare(
            model,
            data,
            plan,
            chosen,
            requested=RequestedLayers(exclude, bits or {}, solver=plan.solver),
            export=export,
            preprocess=preprocess,
            settings=settings,
            judging=Judging(most=samples, share=2, fewest=2 * samples),
            progress=progress,
        ).warn()
        judged = job.images.judging or job.images.calibration
        assert judged is not None
        judging = real_feeds(judged, samples)
        stored = _stored(job, cache, judged, len(judging))
        sources = error_sources(job, judging, stored, progress, workers)
    return Sensitivity(job.recipe.name, chosen.name, len(judging), sources)


def error_sources(
    job: Prepared,
    samples: Sequence[Feeds],
    cache: Cache,
    progress: Progress,
    workers: Workers = Workers(),  # noqa: B008  (frozen)
) -> tuple[ErrorSource, ...]:
    """Run the passes of a conversion and measure what every rounding costs, or read the result from the cache."""
    known = cache.load(_CACHED)
    if known is not None:
        return tuple(ErrorSource.from_json(values) for values in json.loads(str(known["sources"])))
    work, _ = run_passes(job, progress)
    with opened(workers) as engine:
        sources = measure(work, samples, progress, engine=engine)
    cache.store(_CACHED, {"sources": np.array(json.dumps([source.to_json() for source in sources]))})
    return sources


def _stored(job: Prepared, cache: str | Path | None, judged: Dataset, samples: int) -> Cache:
    if cache is None:
        return Cache(None, {})
    data = job.images.calibration
    assert data is not None
    facts = {
        "model": model_digest(job.source),
        "calibration": data.describe(),
        "judged": judged.describe(),
        "samples": samples,
        "recipe": dump_recipe(dataclasses.replace(job.recipe, description="")),
        "target": job.target.name,
        "source": source_digest(),
        "versions": versions(),
    }
    return Cache(Path(cache), facts)
