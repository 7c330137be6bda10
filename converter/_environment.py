"""What must hold before anything else is imported. This module is imported first.

It sets environment variables that libraries read at import, unless the user has set them. And `passes` must be the
package beside `converter`: a `passes.py` beside the user's script would hide it.
"""

import importlib.util
import os
from pathlib import Path

__all__: list[str] = []

_found = importlib.util.find_spec("passes")
_passes = "nothing" if _found is None else _found.origin or "a folder without __init__.py"
if Path(_passes).resolve() != Path(__file__).resolve().parents[1] / "passes" / "__init__.py":
    raise ImportError(
        f"convert-onnx needs its own package `passes`, and Python finds {_passes}; rename that file, or start Python "
        "in another folder"
    )

# onnxruntime 1.31 starts a telemetry client at import. The client writes a session id to `$TMPDIR/.ses`. The converter
# must not leave files or connect to a server.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# numpy and scipy each have their own OpenBLAS. Its idle threads keep a processor busy for 2^26 cycles. Meanwhile the
# threads of the other OpenBLAS and of onnxruntime wait: conversions took 1.1 to 1.4 times as long. Use 2^4 cycles.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
