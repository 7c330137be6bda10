"""Sweep: every model by every recipe, at several bits, for every target; each converted and measured once."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.engine.storage import Storage
from converter.engine.workers import Workers, opened
from converter.model_io.lock import owned
from converter.pipeline.settings import Settings
from converter.pipeline.sweep_record import Sweep, SweepRow
from converter.runtime.session import Progress, no_progress
from converter.sweeps.conversion import Conversion
from converter.sweeps.errand import Errand, carried_out, fetched, forgotten, shipped
from converter.sweeps.opened_model import OpenedModel, calibration_for, key_of, open_for_sweep, shared_facts
from converter.sweeps.plan import Cell, SweepPlan, cells_of
from converter.sweeps.plan_file import read_plan
from converter.sweeps.stored_rows import StoredRows
from converter.sweeps.work_folder import work_folder
from passes.arguments import require_type

__all__ = ["sweep"]


def sweep(
    plan: SweepPlan | str | Path,
    folder: str | Path,
    *,
    keep_files: bool = True,
    retry: bool = False,
    workers: Workers = Workers(),  # noqa: B008  (frozen)
    progress: Progress = no_progress,
) -> Sweep:
    """Convert every combination of a plan, and measure each file.

    Finished rows are in the folder. The same call after an interruption goes on with the others. A row counts only if
    model, data, recipe, settings, versions and its file are what they were.

    Args:
        plan: The plan, or a TOML file with it. See `converter.SweepPlan`.
        folder: Folder for rows, files and the work in progress.
        keep_files: Whether the files are kept, in ``folder``/files.
        retry: Whether conversions that failed in an earlier call run again.
        workers: Processes that convert. By default, this process does.
        progress: Called with "sweep", the number of rows that are done, and the number of all.

    Returns:
        One row for each conversion. A conversion that fails has a row with the reason, and the others go on.

    Raises:
        ConvertError: A model, data, a recipe or the folder cannot be used. Nothing is converted then.
    """
    if not isinstance(plan, SweepPlan):
        require_type("plan", plan, (str, Path), "a converter.SweepPlan or a .toml file")
        plan = read_plan(plan)
    cells, place = cells_of(plan), Path(folder)
    stored = StoredRows(place)
    with owned(place, place / ".lock"), work_folder(place) as work:
        jobs = _jobs(plan, cells, work, progress)
        found = {job.key: row for job in jobs if (row := _known(stored, job.key, keep_files, retry)) is not None}
        left = [job for job in jobs if job.key not in found]
        if keep_files:
            stored.claim([job.name for job in left])
        progress("sweep", len(found), len(jobs))
        for row in _converted(left, stored, keep_files, workers):
            stored.store(row)
            found[row.key] = row
            progress("sweep", len(found), len(jobs))
    return Sweep(tuple(found[job.key] for job in jobs))


def _converted(jobs: Sequence[Conversion], stored: StoredRows, keep: bool, workers: Workers) -> Iterator[SweepRow]:
    """Yield the rows of conversions, in the order in which they are done. Their files are in the folder."""
    if not jobs:
        return
    with opened(workers) as engine:
        if engine.shares_disk:
            errands = [Errand(job, stored.files if keep else None) for job in jobs]
        else:
            storage, known = Storage(str(workers.storage)), dict[Path, str]()
            errands = [shipped(job, storage, keep, known) for job in jobs]
        left = dict(enumerate(errands))
        try:
            for index, row in engine.results(carried_out, errands, _lost):
                yield fetched(left.pop(index), row, stored.files)
        finally:
            for errand in left.values():
                forgotten(errand)


def _lost(errand: Errand, reason: str) -> SweepRow:
    job = errand.job
    return SweepRow(job.model_name, job.recipe_name, job.target, job.bits, failure=reason, key=job.key)


def _jobs(plan: SweepPlan, cells: Sequence[Cell], work: Path, progress: Progress) -> list[Conversion]:
    """Open every model with its data, and return the conversions."""
    shared, settings = shared_facts(plan.settings), dataclasses.replace(plan.settings, cache=work)
    jobs = []
    for index, model in enumerate(plan.models):
        own = [cell for cell in cells if cell.model is model]
        found = open_for_sweep(model, own, plan.settings, work / f"{model.name}.onnx")
        jobs += [_job(cell, found, key_of(cell, {**found.facts, **shared}), settings) for cell in own]
        progress("opening models", index + 1, len(plan.models))
    return jobs


def _job(cell: Cell, opened: OpenedModel, facts: Mapping[str, Any], settings: Settings) -> Conversion:
    model, calibration = cell.model, calibration_for(cell)
    if opened.limit is not None:
        asked = cell.recipe.limit if settings.limit is None else settings.limit
        settings = dataclasses.replace(settings, limit=min(asked, opened.limit))
    return Conversion(
        key=hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16],
        name=cell.name,
        model=str(opened.path),
        calibration=None if calibration is None else str(calibration),
        evaluation=None if model.evaluation is None else str(model.evaluation),
        model_name=model.name,
        recipe_name=cell.recipe_name,
        bits=cell.bits,
        target=cell.target.name,
        recipe=cell.recipe,
        exclude=model.exclude,
        preprocess=model.preprocess,
        settings=settings,
    )


def _known(stored: StoredRows, key: str, keep_files: bool, retry: bool) -> SweepRow | None:
    """Return the row of an earlier call, if it says all that this call asks for."""
    row = stored.load(key)
    if row is None or (retry and row.failure) or (keep_files and not row.failure and not row.file):
        return None
    return row
