"""onnxruntime's telemetry, off unless the user has set ORT_DISABLE_TELEMETRY otherwise. Imported before onnxruntime.

onnxruntime 1.31 starts a telemetry client when it is imported, which leaves a session id in `$TMPDIR/.ses`. A converter
of other people's models leaves no file behind and calls nobody.
"""

import os

__all__: list[str] = []

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
