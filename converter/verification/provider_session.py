"""Runs one ONNX file on one execution provider, in any Python that has the provider.

    python provider_session.py JOB.json

The script needs only numpy and onnxruntime. JOB: {"model", "provider": "cpu" | "openvino" | "qnn", "feeds": .npz with
the values of every input, one run after the other, "shapes": {input: its shape in each run}, "outputs": .npz to write,
"ready": a file}. It prints one JSON object: the runtime, the shapes of each output, how many nodes the provider took
and which it did not take, or the error. The file "ready" is made when the script knows that this Python has the
provider. A failure before that is the runtime's fault, and one after it the model's.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["run_job"]

_CPU, _OPENVINO, _QNN = "CPUExecutionProvider", "OpenVINOExecutionProvider", "QNNExecutionProvider"
_NAMES = {"cpu": _CPU, "openvino": _OPENVINO, "qnn": _QNN}
_ASSIGNMENT = "get_provider_graph_assignment_info"  # exists since onnxruntime 1.24


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model on the provider, run every row of the feeds, and write the outputs. Errors are in the answer."""
    answer: dict[str, Any] = {"provider": _NAMES[job["provider"]]}
    try:
        _run(job, answer)
    except Exception as error:  # the answer reports any error
        answer["reason"] = (str(error).strip().splitlines() or [""])[0]
        answer["error"] = f"{type(error).__name__}: {answer['reason']}"
    return answer


def _run(job: dict[str, Any], answer: dict[str, Any]) -> None:
    import numpy as np
    import onnxruntime as ort

    answer["runtime"] = f"onnxruntime {ort.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = not hasattr(ort.InferenceSession, _ASSIGNMENT)
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        arguments = _prepare(ort, options, answer)
        for library in job["custom_ops"]:
            options.register_custom_ops_library(library)
        Path(job["ready"]).touch()
        session = _open(ort, job["model"], options, arguments)
        names = [value.name for value in session.get_outputs()]
        parts = [
            [_numbers(value) for value in session.run(names, run)] for run in _runs(job, dict(np.load(job["feeds"])))
        ]
        answer["shapes"] = {name: [list(part[index].shape) for part in parts] for index, name in enumerate(names)}
        outputs = {name: _joined([part[index] for part in parts]) for index, name in enumerate(names)}
        np.savez(job["outputs"], **outputs)
        answer["nodes"], answer["left"] = _assignment(session, answer["provider"])


def _runs(job: dict[str, Any], feeds: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut the inputs of every run out of their values."""
    read = dict.fromkeys(feeds, 0)
    for shapes in zip(*(job["shapes"][name] for name in feeds), strict=True):
        run = {}
        for name, shape in zip(feeds, shapes, strict=True):
            end = read[name] + math.prod(shape)
            run[name], read[name] = feeds[name][read[name] : end].reshape(shape), end
        yield run


def _numbers(value: Any) -> Any:
    """An output as an array, as `converter.runtime.output_numbers.numbers` makes it."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "fiub" else np.zeros(0)
    if isinstance(value, dict):
        return np.asarray([value[key] for key in sorted(value)])
    if not isinstance(value, list):
        return np.zeros(0) if value is None or isinstance(value, str) else np.asarray(value)
    parts = [_numbers(part) for part in value]
    if all(isinstance(part, dict) for part in value) and len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    return np.concatenate([part.reshape(-1) for part in parts]) if parts else np.zeros(0)


def _joined(parts: list[Any]) -> Any:
    """Rows of all runs, or all numbers on one axis if the runs differ in more than the number of rows."""
    import numpy as np

    if len({part.shape[1:] for part in parts}) == 1 and all(part.ndim for part in parts):
        return np.concatenate(parts)
    return np.concatenate([part.reshape(-1) for part in parts])


def _prepare(ort: Any, options: Any, answer: dict[str, Any]) -> dict[str, Any]:
    """Check that the provider exists, and return the session's arguments besides the options.

    Without this check, onnxruntime only warns and runs on the CPU. The provider's version goes into `answer`.
    """
    name = answer["provider"]
    if name == _QNN:
        import onnxruntime_qnn

        answer["package"] = f"onnxruntime-qnn {onnxruntime_qnn.__version__}, HTP"
        ort.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        if not devices:
            raise LookupError(f"{answer['package']} finds no device")
        settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "offload_graph_io_quantization": "0"}
        options.add_provider_for_devices(devices[:1], settings)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return {}
    if name not in ort.get_available_providers():
        raise LookupError(f"{answer['runtime']} has no {name}")
    if name == _CPU and os.environ.get("CONVERT_ONNX_EXACT_KERNELS") == "1":  # see `converter.runtime.session`
        options.add_session_config_entry("session.x64quantprecision", "1")
    if name == _OPENVINO:
        answer["package"] = f"onnxruntime-openvino {ort.__version__}"
        return {"providers": [(name, {"device_type": "CPU"})]}
    return {"providers": [name]}


def _open(ort: Any, model: str, options: Any, arguments: dict[str, Any]) -> Any:
    try:
        return ort.InferenceSession(model, options, **arguments)
    except Exception as error:
        if "disabled by the user" not in str(error):
            raise
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")  # then the answer can list these nodes
    return ort.InferenceSession(model, options, **arguments)


def _assignment(session: Any, provider: str) -> tuple[int, list[dict[str, str]]]:
    """How many nodes the provider took, and which it did not take. An older runtime lists only nodes that ran."""
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
    """Run the job. stdout holds only the answer, whatever the provider's libraries print."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer = run_job(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print(json.dumps(answer), file=stdout, flush=True)


if __name__ == "__main__":
    main()
