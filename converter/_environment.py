"""Environment variables that libraries read at import. This module is imported first. The user's values stay."""

import os

__all__: list[str] = []

# onnxruntime 1.31 starts a telemetry client at import. The client writes a session id to `$TMPDIR/.ses`. The converter
# must not leave files or connect to a server.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# numpy and scipy each have their own OpenBLAS. Its idle threads keep a processor busy for 2^26 cycles. Meanwhile the
# threads of the other OpenBLAS and of onnxruntime wait: conversions took 1.1 to 1.4 times as long. Use 2^4 cycles.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
