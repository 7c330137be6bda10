"""onnxruntime sessions on the CPU, including files whose int8 activations its optimizer breaks.

On x86, the optimizer rewrites int8 activations to uint8, for which it has faster kernels. It may have moved a
QuantizeLinear behind a Reshape before that. The ``output_dtype`` of the moved node stays int8, and onnxruntime 1.31
then refuses its own graph. If it is told to leave int8 as it is, it computes the same file. Every other file is loaded
without this setting. So what is timed and inspected is what a user's session will run.
"""

import onnxruntime as ort

from converter.model_io.operator_libraries import register

__all__ = ["cpu_session"]

_REWRITTEN = "INT8 does not match"
"""Part of the error message when the rewriting is the cause."""


def cpu_session(model: str | bytes, options: ort.SessionOptions, *, keep_int8: bool = True) -> ort.InferenceSession:
    """Open a session, with the operators of `custom_ops`. onnxruntime's own exceptions pass through.

    Args:
        model: Path of a model, or its bytes.
        options: Options of the session. The setting that leaves int8 as it is may be added to them.
        keep_int8: Whether to try again with that setting if the rewriting fails.
    """
    register(options)
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
