"""onnxruntime sessions on the CPU, including files whose int8 activations its optimizer breaks.

On x86, the optimizer rewrites int8 activations to uint8, for which it has faster kernels. It may have moved a
QuantizeLinear behind a Reshape before that. The ``output_dtype`` of the moved node stays int8, and onnxruntime 1.31
then refuses its own graph. If it is told to leave int8 as it is, it computes the same file. Every other file is loaded
without this setting. So what is timed and inspected is what a user's session will run.
"""

from pathlib import Path

import onnx
import onnxruntime as ort

from converter.model_io.operator_libraries import register
from converter.model_io.scratch import scratch_folder
from converter.model_io.sizes import fits_one_file
from converter.model_io.sparse import with_dense_functions
from converter.model_io.write import data_file, write_onnx

__all__ = ["cpu_session"]

_IN_MEMORY = 2**27
"""Bytes of weights above which a session reads a file. It maps the weights, and would copy them twice otherwise."""
_REWRITTEN = "INT8 does not match"
"""Part of the error message when the rewriting is the cause."""


def cpu_session(
    model: onnx.ModelProto | Path, options: ort.SessionOptions, *, keep_int8: bool = True
) -> ort.InferenceSession:
    """Open a session, with the operators of `custom_ops`. onnxruntime's own exceptions pass through.

    Args:
        model: A file, or a model in memory of any size.
        options: Options of the session. The setting that leaves int8 as it is may be added to them.
        keep_int8: Whether to try again with that setting if the rewriting fails.
    """
    register(options)
    model = with_dense_functions(model)
    if isinstance(model, Path):
        return _session(str(model), options, keep_int8=keep_int8)
    if fits_one_file(model, _IN_MEMORY) and fits_one_file(model):
        return _session(model.SerializeToString(), options, keep_int8=keep_int8)
    if options.optimized_model_filepath and not fits_one_file(model):
        data = data_file(Path(options.optimized_model_filepath)).name
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        write_onnx(model, path, inline_limit=0)
        return _session(str(path), options, keep_int8=keep_int8)


def _session(model: str | bytes, options: ort.SessionOptions, *, keep_int8: bool) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if not keep_int8 or _REWRITTEN not in str(error):
            raise
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        options.add_session_config_entry("session.x64quantprecision", "0")  # the two together have no kernels
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as second_error:
            raise error from second_error
