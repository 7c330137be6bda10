"""Data for the evaluation of model files. They are loaded once, with the preprocessing that the files store."""

from collections.abc import Sequence

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.data.labels import model_classes
from converter.data.preprocess import Preprocess, stored_preprocess
from converter.data.preprocess_checks import refuse_unused
from converter.model_io.load import read_onnx
from converter.model_io.open import ModelFile
from passes.errors import ModelError

__all__ = ["load_for"]


def load_for(files: Sequence[ModelFile], data: str, preprocess: Preprocess, limit: int | None = None) -> Dataset:
    """Load the data for all of ``files``, with the preprocessing that their metadata store.

    Args:
        files: Model files.
        data: Source of the data, as in `load_data`.
        preprocess: Its fields override the stored preprocessing.
        limit: Largest number of images. The default is all.

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
                "measure them apart, or give --mean, --std, --resize and --crop"
            )
    declared = [model_classes(proto, file.name) for file, proto in zip(files, protos, strict=True)]
    known = [classes for classes in declared if classes is not None]
    fewest = min(known, key=lambda classes: classes.count, default=None)
    used = settings[0][1] if settings else preprocess
    dataset = load_data(data, input_specs(protos[0]), preprocess=used, limit=limit, classes=fewest)
    refuse_unused(preprocess, [dataset])
    return dataset
