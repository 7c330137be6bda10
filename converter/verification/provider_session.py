"""One ONNX file on one execution provider, in whatever Python has that provider. Stands alone: numpy and onnxruntime.

    python provider_session.py JOB.json

JOB: {"model", "provider": "cpu" | "openvino" | "qnn", "feeds": .npz of [rows, ...], "outputs": .npz to write, "batch",
"ready": a file}. Prints one JSON object: the runtime, how many nodes the provider took and which it did not, or the
error. Rows are run `batch` at a time. The file "ready" is made once this Python is known to have the provider: what
fails before that is the fault of the runtime, what fails after it the model's.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["run_job"]

_CPU, _OPENVINO, _QNN = "CPUExecutionProvider", "OpenVINOExecutionProvider", "QNNExecutionProvider"
_NAMES = {"cpu": _CPU, "openvino": _OPENVINO, "qnn": _QNN}
_ASSIGNMENT = "get_provider_graph_assignment_info"  # from onnxruntime 1.24 on


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model on the provider, run every row of the feeds, write the outputs; an error is an answer too."""
    found: dict[str, Any] = {"provider": _NAMES[job["provider"]]}
    try:
        _run(job, found)
    except Exception as error:  # the answer is the report of whatever went wrong
        found["reason"] = (str(error).strip().splitlines() or [""])[0]
        found["error"] = f"{type(error).__name__}: {found['reason']}"
    return found


def _run(job: dict[str, Any], found: dict[str, Any]) -> None:
    import numpy as np
    import onnxruntime as ort

    found["runtime"] = f"onnxruntime {ort.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = not hasattr(ort.InferenceSession, _ASSIGNMENT)
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        arguments = _prepare(ort, options, found)
        Path(job["ready"]).touch()
        session = _open(ort, job["model"], options, arguments)
        feeds = dict(np.load(job["feeds"]))
        names = [value.name for value in session.get_outputs()]
        batch = job["batch"]
        starts = range(0, len(next(iter(feeds.values()))), batch)
        parts = [
            session.run(names, {key: rows[start : start + batch] for key, rows in feeds.items()}) for start in starts
        ]
        outputs: dict[str, Any] = {
            name: np.concatenate([np.atleast_1d(part[index]) for part in parts]) for index, name in enumerate(names)
        }
        np.savez(job["outputs"], **outputs)
        found["nodes"], found["left"] = _assignment(session, found["provider"])


def _prepare(ort: Any, options: Any, found: dict[str, Any]) -> dict[str, Any]:
    """What the session takes besides the options; the provider's own version goes into `found`.

    Without this check onnxruntime warns, and runs on the CPU.
    """
    name = found["provider"]
    if name == _QNN:
        import onnxruntime_qnn

        found["package"] = f"onnxruntime-qnn {onnxruntime_qnn.__version__}, HTP"
        ort.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        if not devices:
            raise LookupError(f"{found['package']} finds no device")
        settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "offload_graph_io_quantization": "0"}
        options.add_provider_for_devices(devices[:1], settings)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return {}
    if name not in ort.get_available_providers():
        raise LookupError(f"{found['runtime']} has no {name}")
    if name == _CPU and os.environ.get("CONVERT_ONNX_EXACT_KERNELS") == "1":  # as `converter.runtime.session` has it
        options.add_session_config_entry("session.x64quantprecision", "1")
    if name == _OPENVINO:
        found["package"] = f"onnxruntime-openvino {ort.__version__}"
        return {"providers": [(name, {"device_type": "CPU"})]}
    return {"providers": [name]}


def _open(ort: Any, model: str, options: Any, arguments: dict[str, Any]) -> Any:
    try:
        return ort.InferenceSession(model, options, **arguments)
    except Exception as error:
        if "disabled by the user" not in str(error):
            raise
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")  # then say which nodes these are
    return ort.InferenceSession(model, options, **arguments)


def _assignment(session: Any, provider: str) -> tuple[int, list[dict[str, str]]]:
    """How many nodes the provider took, and which it did not; an older runtime tells only of those that ran."""
    if hasattr(session, _ASSIGNMENT):
        graphs = getattr(session, _ASSIGNMENT)()
        nodes = [(graph.ep_name, node.op_type, node.name) for graph in graphs for node in graph.get_nodes()]
    else:
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kernels = {event["name"]: event["args"] for event in events if event["name"].endswith("_kernel_time")}
        nodes = [(args["provider"], args["op_name"], name[: -len("_kernel_time")]) for name, args in kernels.items()]
    left = [{"name": name, "op": op} for where, op, name in nodes if where != provider]
    return len(nodes) - len(left), left


def main() -> None:
    """Run the job; stdout is kept for the answer, whatever the provider's libraries print."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = run_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print(json.dumps(found), file=answer, flush=True)


if __name__ == "__main__":
    main()
