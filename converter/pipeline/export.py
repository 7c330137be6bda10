"""Export a torch model as float ONNX, with the preprocessing of its images in the metadata."""

from typing import Any

from converter.data.inputs import input_specs
from converter.data.preprocess import Preprocess, store_preprocess
from converter.data.preprocess_checks import check_channels
from converter.model_io.export import ExportResult
from converter.model_io.open import ExportOptions, export_model

__all__ = ["export"]


def export(
    model: Any,
    *,
    export: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    preprocess: Preprocess = Preprocess(),  # noqa: B008  (frozen)
) -> ExportResult:
    """Export a torch model as float ONNX, and check that onnxruntime computes what torch computes.

    Args:
        model: ``FILE.py:FACTORY`` or a torch module. A module does not change.
        export: Weights and input shape.
        preprocess: Preprocessing of the model's images. It goes into the metadata of the ONNX model.

    Raises:
        UsageError: The model is ONNX already, or the preprocessing does not fit its inputs.
        ExportError: Torch cannot export the module, or onnxruntime computes something else.
    """
    exported = export_model(model, export)
    if preprocess != Preprocess():
        check_channels(preprocess, input_specs(exported.model))
        store_preprocess(exported.model, preprocess)
    return exported
