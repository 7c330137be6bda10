"""The data that model files are measured on: read once, as the files themselves say images become tensors."""

from collections.abc import Sequence
from pathlib import Path

from converter.data import Dataset, Preprocess, input_specs, load_data, stored_preprocess
from converter.load import read_onnx
from converter.open import is_factory
from passes.errors import ModelError

__all__ = ["load_for"]


def load_for(models: Sequence[str | Path], data: str, preprocess: Preprocess, limit: int | None = None) -> Dataset:
    """Data for all of ``models``, preprocessed as their metadata say; fields of ``preprocess`` go before.

    Raises:
        ModelError: a model cannot be read, or two of them store different preprocessing.
        DataError: the data cannot be used; see `load_data`.
    """
    for model in models:
        if is_factory(str(model)):
            raise ModelError(f"{model}: only .onnx files are measured; write one with convert-onnx export")
    protos = [read_onnx(Path(model)) for model in models]
    stored = [(model, stored_preprocess(proto)) for model, proto in zip(models, protos, strict=True)]
    told = [(model, found.merge(preprocess)) for model, found in stored if found != Preprocess()]
    for model, found in told[1:]:
        if found != told[0][1]:
            raise ModelError(
                f"{told[0][0]} and {model} store different preprocessing "
                f"({told[0][1].to_json()} and {found.to_json()}); "
                "measure them apart, or give --mean, --std, --resize and --crop"
            )
    return load_data(data, input_specs(protos[0]), preprocess=told[0][1] if told else preprocess, limit=limit)
