"""Open a model of a sweep with its data before any conversion. What cannot be used is refused."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from converter.cache.source_digest import source_digest
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.data.labels import model_classes
from converter.data.preprocess import stored_preprocess
from converter.evaluation.evaluate import require_metric
from converter.model_io.open import is_factory, open_model, require_layers, suggesting_shape
from converter.model_io.operator_libraries import libraries
from converter.model_io.save import save_onnx
from converter.model_io.sizes import model_digest
from converter.pipeline.images import require_calibration
from converter.pipeline.prepare import JUDGING
from converter.pipeline.result import numeric_versions, versions
from converter.pipeline.settings import Settings
from converter.qdq.reader import read_qdq
from converter.recipes.toml import recipe_content
from converter.sweeps.plan import Cell, SweepModel
from passes.errors import ConvertError

__all__ = ["OpenedModel", "calibration_for", "key_of", "open_for_sweep", "shared_facts"]

_NO_RESULTS = ("cache", "checkpoint")  # settings that a row does not depend on; all others count
_JUDGES = 8  # one sample in so many judges, where there are few


@dataclass(frozen=True)
class OpenedModel:
    """A model that a sweep may convert.

    Attributes:
        path: The .onnx file. That of a torch model is exported once.
        facts: JSON values that describe the model and its data.
        limit: Largest number of samples that calibrate, so that others are left to judge. None: as the recipe says.
    """

    path: Path
    facts: Mapping[str, Any]
    limit: int | None = None


def open_for_sweep(model: SweepModel, cells: Sequence[Cell], settings: Settings, exported: Path) -> OpenedModel:
    """Check a model, its data and what its recipes need.

    Args:
        model: The model.
        cells: Its conversions.
        settings: Settings of every conversion.
        exported: File for a torch model, which is exported once.

    Raises:
        ConvertError: Any problem that the user can fix. The message names the model.
    """
    with _named(model.name):
        for cell in cells:
            require_calibration(calibration_for(cell), None, None, cell.recipe)
        opened = open_model(model.model, model.export)
        source, _ = read_qdq(opened)
        require_layers(source)
        most = max(cell.recipe.limit if settings.limit is None else settings.limit for cell in cells) + JUDGING.most
        with suggesting_shape([model.model], model.export):
            calibration = _opened(model, source, cells, model.calibration, most)
            unseen = _opened(model, source, cells, model.evaluation, None, annotated=settings.metric is not None)
        if settings.metric is not None and unseen is not None:
            require_metric(opened, unseen, settings.metric)
        path = Path(str(model.model))
        if is_factory(str(model.model)):
            path = exported
            path.parent.mkdir(parents=True, exist_ok=True)
            save_onnx(opened, path)
        data = {"calibration": _described(calibration), "evaluation": _described(unseen)}
        own = {"preprocess": model.preprocess.values(), "exclude": list(model.exclude)}
        limit = None if unseen is not None or calibration is None else _limit(len(calibration))
        return OpenedModel(path, {"model": model_digest(opened), **data, **own}, limit)


def _limit(samples: int) -> int | None:
    """Return how many of few samples calibrate, so that one in eight judges. None: there are enough, or only one."""
    return None if samples >= JUDGING.fewest or samples == 1 else samples - max(1, samples // _JUDGES)


def calibration_for(cell: Cell) -> str | Path | None:
    """Return the data that calibrate. None for a recipe that keeps the grids of the model, which takes none."""
    keeps = cell.recipe.keeps and not cell.recipe.needs_calibration
    return None if keeps else cell.model.calibration


def shared_facts(settings: Settings) -> dict[str, Any]:
    """Return JSON values that every row of a sweep depends on: settings, versions and this package's own source."""
    names = [each.name for each in dataclasses.fields(settings) if each.name not in _NO_RESULTS]
    chosen = {name: getattr(settings, name) for name in names}
    file, own_metric, _ = str(settings.metric or "").partition(".py:")
    code = [Path(library) for library in libraries()] + ([Path(f"{file}.py")] if own_metric else [])
    return {
        "settings": chosen,
        "source": source_digest(),
        "versions": versions() | numeric_versions(),
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in code],
    }


def key_of(cell: Cell, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON values that a row depends on.

    Args:
        cell: The conversion.
        facts: Those of its model and of the whole sweep.
    """
    recipe = {name: each for name, each in recipe_content(cell.recipe).items() if name != "description"}
    return {"name": cell.name, "recipe": recipe, "target": cell.target.name, **facts}


def _opened(
    model: SweepModel,
    source: onnx.ModelProto,
    cells: Sequence[Cell],
    data: str | Path | None,
    most: int | None,
    *,
    annotated: bool = False,
) -> Dataset | None:
    """Open data of a model. Of a function, which may be endless, only ``most`` samples are read."""
    if data is None:
        return None
    preprocess = stored_preprocess(source).merge(cells[0].recipe.preprocess).merge(model.preprocess)
    evaluates = most is None
    return load_data(
        data,
        input_specs(source),
        preprocess=preprocess,
        limit=most if is_factory(str(data)) else None,
        classes=model_classes(source, "the model") if evaluates else None,
        annotated=annotated or not evaluates,
    )


def _described(data: Dataset | None) -> dict[str, Any] | None:
    """Return the description of data without their location."""
    return None if data is None else {name: fact for name, fact in data.describe().items() if name != "source"}


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of a model in front of what is wrong with it."""
    try:
        yield
    except ConvertError as error:
        error.args = (f"{name}: {error}", *error.args[1:])
        raise
