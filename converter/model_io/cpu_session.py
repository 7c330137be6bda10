"""An onnxruntime session on the CPU, of files too whose int8 activations its optimizer breaks.

On x86 the optimizer rewrites int8 activations to uint8, for which it has the faster kernels. Where it has put a
QuantizeLinear of its own behind a Reshape before that, the ``output_dtype`` of that one stays int8, and it refuses its
own graph (onnxruntime 1.31). Told to leave int8 as it is, it computes the same file. Every other file is loaded as any
user's session loads it, so that what is timed and inspected is what will run.
"""

import onnxruntime as ort

__all__ = ["cpu_session"]

_REWRITTEN = "INT8 does not match"
"""What is in the message where the rewriting is at fault."""


def cpu_session(model: str | bytes, options: ort.SessionOptions, *, keep_int8: bool = True) -> ort.InferenceSession:
    """The session; onnxruntime's own exception where it cannot load the model.

    Args:
        model: a path, or the bytes of a model.
        options: of the session; with the rewriting left out where it is at fault.
        keep_int8: leave it out then.
    """
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if not keep_int8 or _REWRITTEN not in str(error):
            raise
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        options.add_session_config_entry("session.x64quantprecision", "0")  # the two together have no kernels
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as again:
            raise error from again
