"""The data that model files are measured on: read once, as the files themselves say images become tensors."""

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
    """Data for all of ``files``, preprocessed as their metadata say; fields of ``preprocess`` go before.

    Raises:
        ModelError: a model cannot be read, or two of them store different preprocessing.
        UsageError: ``preprocess`` is given, and the data are not images.
        DataError: the data cannot be used; see `load_data`.
    """
    protos = [read_onnx(file.path) for file in files]
    stored = [(file.name, stored_preprocess(proto)) for file, proto in zip(files, protos, strict=True)]
    told = [(name, found.merge(preprocess)) for name, found in stored if found != Preprocess()]
    for name, found in told[1:]:
        if found != told[0][1]:
            raise ModelError(
                f"{told[0][0]} and {name} store different preprocessing "
                f"({told[0][1].to_json()} and {found.to_json()}); "
                "measure them apart, or give --mean, --std, --resize and --crop"
            )
    known = [model_classes(proto, file.name) for file, proto in zip(files, protos, strict=True)]
    fewest = min((classes for classes in known if classes is not None), key=lambda found: found.count, default=None)
    used = told[0][1] if told else preprocess
    dataset = load_data(data, input_specs(protos[0]), preprocess=used, limit=limit, classes=fewest)
    refuse_unused(preprocess, [dataset])
    return dataset
