"""Models as files, and data for them. The data are loaded once, with the preprocessing that the files store."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.data.dataset import Dataset, load_data
from converter.data.embedding import embedded_preprocess, floats_of
from converter.data.inputs import input_specs
from converter.data.judged_files import judged_files
from converter.data.labels import model_classes
from converter.data.preprocess import Preprocess, stored_preprocess
from converter.data.preprocess_checks import questions, refuse_unused
from converter.model_io.load import read_onnx
from converter.model_io.open import ExportOptions, ModelFile, model_files, suggesting_shape
from converter.model_io.scratch import scratch_folder
from passes.arguments import require_type
from passes.errors import ModelError, UsageError, argument

__all__ = ["ModelsOnData", "load_for", "models_on_data"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelsOnData:
    """Model files and the data to run them on."""

    files: list[ModelFile]
    data: Dataset

    @property
    def paths(self) -> list[Path]:
        """Paths of the files."""
        return [file.path for file in self.files]

    @property
    def names(self) -> list[str]:
        """Names of the models, as the caller gave them."""
        return [file.name for file in self.files]


@contextlib.contextmanager
def models_on_data(
    models: Sequence[Any],
    data: Any,
    *,
    names: Sequence[str] | None = None,
    limit: int | None = None,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
    annotated: bool = False,
) -> Iterator[ModelsOnData]:
    """Open models and data in any form, until the `with` block ends.

    Args:
        models: Models in the forms of `open_model`.
        data: Data in a form of `load_data`, or a Dataset, which is used as it is.
        names: Names of the models. The default is their paths.
        limit: Largest number of images. The default is all.
        export: Weights and input shape of torch models.
        preprocess: Preprocessing of uint8 data. It overrides what the models store.
        annotated: Whether to keep labels of any form, see `load_data`.

    Yields:
        The model files and the data.

    Raises:
        UsageError: ``limit`` or ``preprocess`` is given for a Dataset, or see `load_for`.
        ConvertError: See `open_model` and `load_for`.
    """
    if isinstance(models, (str, Path)) or not isinstance(models, Sequence):
        raise UsageError(f"models are of type {type(models).__name__}; give a list of models")
    if names is not None and (isinstance(names, str) or len(names) != len(models)):
        raise UsageError(f"{argument(names=names)}: give one name for each of the {len(models)} models")
    require_type("preprocess", preprocess, Preprocess, "converter.Preprocess(...)")
    if isinstance(data, Dataset):
        given = [
            *(["`limit=`"] if limit is not None else []),
            *(["`preprocess=`"] if preprocess != Preprocess() else []),
        ]
        if given:
            raise UsageError(
                f"{' and '.join(given)} would have no effect: the data are a Dataset already; leave it out"
            )
    with model_files(models, export, names, judged=False) as opened, scratch_folder() as folder:
        files = judged_files(opened, folder)
        if isinstance(data, Dataset):
            dataset = data
        else:
            with suggesting_shape(models, export):
                dataset = load_for(files, data, preprocess, limit, annotated=annotated)
            for question in questions([dataset]):
                _LOG.warning(question)
        for file in files:
            if file.exported is not None:
                runs, kind = dataset.first_runs()
                file.exported.judged([_floats(file, run) for run in runs], kind)
        yield ModelsOnData(files, dataset)


def _floats(file: ModelFile, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the inputs of the model as it was exported."""
    inside = None if file.given is None else embedded_preprocess(read_onnx(file.path))
    if inside is None or file.given is None:
        return dict(feeds)
    return floats_of(feeds, inside, input_specs(read_onnx(file.given)))


def load_for(
    files: Sequence[ModelFile],
    data: Any,
    preprocess: Preprocess,
    limit: int | None = None,
    *,
    annotated: bool = False,
) -> Dataset:
    """Load the data for all of ``files``, with the preprocessing that their metadata store.

    Args:
        files: Model files.
        data: Source of the data, as in `load_data`.
        preprocess: Its fields override the stored preprocessing.
        limit: Largest number of images. The default is all.
        annotated: Whether to keep labels of any form, see `load_data`.

    Raises:
        ModelError: A model cannot be read, or two models store different preprocessing.
        UsageError: ``preprocess`` is given, but the data are not images.
        DataError: The data cannot be used. See `load_data`.
    """
    protos = [read_onnx(file.path) for file in files]
    stored = [(file.name, stored_preprocess(proto)) for file, proto in zip(files, protos, strict=True)]
    settings = [(name, own.merge(preprocess)) for name, own in stored if own != Preprocess()]
    for name, other in settings[1:]:
        if other != settings[0][1]:
            raise ModelError(
                f"{settings[0][0]} and {name} store different preprocessing "
                f"({settings[0][1].to_json()} and {other.to_json()}); "
                "measure them one at a time, or give `mean=`, `std=`, `resize=` and `crop=`"
            )
    declared = [model_classes(proto, file.name) for file, proto in zip(files, protos, strict=True)]
    known = [classes for classes in declared if classes is not None]
    fewest = min(known, key=lambda classes: classes.count, default=None)
    used = settings[0][1] if settings else preprocess
    dataset = load_data(data, input_specs(protos[0]), preprocess=used, limit=limit, classes=fewest, annotated=annotated)
    refuse_unused(preprocess, [dataset])
    return dataset
