"""One conversion of a sweep: the file, what it measured, or why it failed."""

import dataclasses
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.data.preprocess import Preprocess
from converter.model_io.sizes import serialized_bytes
from converter.pipeline.convert import convert
from converter.pipeline.given import Given
from converter.pipeline.result import Result
from converter.pipeline.settings import Settings
from converter.pipeline.sweep_record import SweepRow
from converter.recipes.recipe import Recipe
from converter.sweeps.stored_rows import digest_of
from converter.targets.catalog import find_target
from converter.verification.rules import violations
from passes.errors import ConvertError, OutputError

__all__ = ["Conversion", "converted"]

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Conversion:
    """All that one conversion of a sweep needs.

    Attributes:
        key: Key of its row.
        name: Name of its file, without the suffix.
        model, calibration, evaluation: Paths or specifications. None: there are no such data.
        model_name, recipe_name, bits, target: What the row is called.
        recipe: The recipe.
        exclude: Layers that the recipe leaves in float, which must exist.
        preprocess: Preprocessing of uint8 data.
        settings: Settings, with the folder of the cache.
    """

    key: str
    name: str
    model: str
    calibration: str | None
    evaluation: str | None
    model_name: str
    recipe_name: str
    bits: int | None
    target: str
    recipe: Recipe
    exclude: tuple[str, ...]
    preprocess: Preprocess
    settings: Settings


def converted(job: Conversion, folder: Path | None) -> SweepRow:
    """Convert, and return the row with the measurements or with the reason of the failure.

    Args:
        job: What to convert.
        folder: Folder for the file. None: the file is not kept.

    Raises:
        OutputError: A folder cannot be written, which would fail all other conversions too.
    """
    started, warnings = time.monotonic(), list[str]()
    row = SweepRow(job.model_name, job.recipe_name, job.target, job.bits, machine=processor(), key=job.key)
    try:
        with _collected(warnings):
            row = _measured(row, job, folder)
    except OutputError:
        raise
    except ConvertError as error:
        row = dataclasses.replace(row, failure=str(error))
    except MemoryError:
        row = dataclasses.replace(row, failure="out of memory; use fewer samples (`limit=`)")
    except Exception as error:  # one bug must not end the other conversions
        logging.getLogger(__name__).debug("%s", job.name, exc_info=error)
        row = dataclasses.replace(row, failure=f"unexpected {type(error).__name__}: {error}; this is a bug")
    seconds = round(time.monotonic() - started, 3)
    return dataclasses.replace(row, seconds=seconds, warnings=tuple(warnings))


def _measured(row: SweepRow, job: Conversion, folder: Path | None) -> SweepRow:
    result = convert(
        job.model,
        job.calibration,
        recipe=job.recipe,
        target=job.target,
        exclude=job.exclude,
        evaluation=job.evaluation,
        preprocess=job.preprocess,
        settings=job.settings,
    )
    target = find_target(job.target)
    broken = tuple(f"{each.fact}: {each.what}" for each in violations(result.model, target))
    row = dataclasses.replace(row, rules=broken, **_numbers(result, timed=target.cpu_kernels))
    if folder is None:
        return row
    path = folder / f"{job.name}.onnx"
    result.save(path)
    return dataclasses.replace(row, file=path.name, sha256=digest_of(path))


def _numbers(result: Result, *, timed: bool) -> dict[str, Any]:
    """Return the measured fields of a row."""
    given = result.given or Given(result.reference)
    found: dict[str, Any] = {"float_bytes": given.bytes, "bytes": serialized_bytes(result.model)}
    if result.metrics is not None:
        first, last = result.metrics.models
        found |= {
            "float_top1": first.top1,
            "top1": last.top1,
            "agreement": last.agreement,
            "measure": result.metrics.metric,
            "float_metric": first.metric,
            "metric": last.metric,
            "sqnr_db": last.sqnr_db,
            "samples": last.images,
            "judged_on": "evaluation",
        }
    elif result.fidelity is not None:
        near = result.fidelity
        found |= {"sqnr_db": near.sqnr_db, "samples": near.samples, "judged_on": near.judges}
    latencies = result.latencies
    if timed and latencies is not None:
        low, high = latencies.quartiles[-1]
        first_ms, last_ms = latencies.ms[0], latencies.ms[-1]
        found |= {"float_ms": first_ms, "latency_ms": last_ms, "speedup": first_ms / last_ms}
        found |= {"speedup_low": low, "speedup_high": high}
    return found


@contextmanager
def _collected(warnings: list[str]) -> Iterator[None]:
    """Collect the library's warnings in place of showing them without the name of their conversion."""
    log = logging.getLogger("converter")
    collector = _Collector(warnings)
    handlers: Sequence[logging.Handler] = [*log.handlers, *logging.getLogger().handlers]
    log.addHandler(collector)
    for handler in handlers:
        handler.addFilter(_below_warning)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_below_warning)
        log.removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self, warnings: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._warnings = warnings

    def emit(self, record: logging.LogRecord) -> None:
        self._warnings.append(record.getMessage())


def _below_warning(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING or not record.name.startswith("converter")


def processor() -> str:
    """Return the name of this machine's processor."""
    with suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
