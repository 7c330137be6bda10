"""Settings that libraries read from the environment as they load; what the user has set goes before. Imported first."""

import os

__all__: list[str] = []

# onnxruntime 1.31 starts a telemetry client when it is imported, which leaves a session id in `$TMPDIR/.ses`. A
# converter of other people's models leaves no file behind and calls nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# numpy and scipy each bring an OpenBLAS whose idle threads keep a processor busy for 2^26 cycles, in which the other's
# threads and onnxruntime's have to wait: conversions took 1.1 to 1.4 times as long. 2^4 cycles instead.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
