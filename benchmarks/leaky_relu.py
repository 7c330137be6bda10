"""Times of a LeakyRelu between 8-bit tensors: onnxruntime's table, and the sum of two multiples of the codes.

    python -m benchmarks.leaky_relu

The sum is what `converter.qdq.leaky_relu` writes for the CPU. Times are the least processor times of runs in turns, on
one thread, without that of a graph of one Identity. The last column is the share of codes that differ, which is by one
at most: where a value lies in the middle of two codes, either is right. The exit code is 1 if the sum is slower over
all shapes, or if a code differs by more.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from converter.report.table import plain_table, show
from converter.runtime.session import open_session

__all__ = ["SHAPES", "main"]

SHAPES = ((1, 28, 28, 116), (1, 40, 40, 128), (1, 10, 10, 96), (1, 80, 80, 64))
_ALPHA, _RUNS, _ROUNDS = 0.1, 100, 30
_CONSTANTS = {
    "step": 0.05,
    "zero": np.uint8(120),
    "new_step": 0.03,
    "new_zero": np.uint8(20),
    "all_step": 0.05 * _ALPHA,
    "positive_step": 0.05 * (1 - _ALPHA),
}


def main() -> int:
    """Time both forms on each shape."""
    columns = ("shape", "table", "sum", "faster", "codes that differ")
    table = plain_table("LeakyRelu on codes, us", columns, (1, 2, 3, 4))
    totals, largest = np.zeros(2), 0
    for shape in SHAPES:
        codes = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        runs = [_run(nodes, codes) for nodes in (_identity(), _table(), _sum())]
        least = np.full(3, np.inf)
        for _ in range(_ROUNDS):
            least = np.minimum(least, [_seconds(run) for run in runs])
        times = 1e6 * (least[1:] - least[0])
        totals += times
        wanted, found = (run().astype(int) for run in runs[1:])
        largest = max(largest, int(np.abs(wanted - found).max()))
        share = 100 * float(np.mean(wanted != found))
        cells = f"{times[0]:.1f}", f"{times[1]:.1f}", f"{times[0] / times[1]:.2f}x", f"{share:.1f} %"
        table.add_row("x".join(map(str, shape)), *cells)
    show([table])
    return int(totals[1] > totals[0] or largest > 1)


def _identity() -> list[NodeProto]:
    return [helper.make_node("Identity", ["codes"], ["result"])]


def _table() -> list[NodeProto]:
    inputs = ["codes", "step", "zero", "new_step", "new_zero"]
    return [helper.make_node("QLinearLeakyRelu", inputs, ["result"], domain="com.microsoft", alpha=_ALPHA)]


def _sum() -> list[NodeProto]:
    inputs = ["codes", "all_step", "zero", "positive", "positive_step", "zero", "new_step", "new_zero"]
    return [
        helper.make_node("Clip", ["codes", "zero"], ["positive"]),
        helper.make_node("QLinearAdd", inputs, ["result"], domain="com.microsoft"),
    ]


def _run(nodes: Sequence[NodeProto], codes: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
    read = {name for node in nodes for name in node.input}
    constants = [
        numpy_helper.from_array(np.asarray(value, np.uint8 if isinstance(value, np.uint8) else np.float32), name)
        for name, value in _CONSTANTS.items()
        if name in read
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, codes.shape) for name in ("codes", "result")]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(list(nodes), "leaky_relu", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    session = open_session(model, threads=1)
    return partial(_result, session, codes)


def _result(session: ort.InferenceSession, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = session.run(None, {"codes": codes})[0]
    return found


def _seconds(run: Callable[[], NDArray[np.uint8]]) -> float:
    start = time.process_time()
    for _ in range(_RUNS):
        run()
    return (time.process_time() - start) / _RUNS


if __name__ == "__main__":
    sys.exit(main())
