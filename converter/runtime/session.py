"""Opens all onnxruntime sessions: on the CPU execution provider, without log output, with errors of our own types."""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort

from converter.model_io.cpu_session import cpu_session
from passes.errors import ModelError, UsageError

__all__ = ["EXACT_KERNELS", "THREADS", "Progress", "available_threads", "exact_kernels", "no_progress", "open_session"]

EXACT_KERNELS = "CONVERT_ONNX_EXACT_KERNELS"
"""Environment variable; see `exact_kernels`."""

THREADS = "CONVERT_ONNX_THREADS"
"""Environment variable: processors that this process may use. Each local worker gets its share of them."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the work, the amount that is done, and the total."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show no progress."""


def exact_kernels() -> bool:
    """Whether sums of 8-bit products must be exact on every processor: `CONVERT_ONNX_EXACT_KERNELS` is 1.

    x86 without VNNI adds two products of uint8 and int8 in 16 bits, which 8-bit weights can saturate. The exact kernels
    give the results of x86 with VNNI, Arm and GPUs, and take about three times as long. They are not used for graphs
    that are written to a file or profiled, because these must show what a deployment runs.
    """
    return os.environ.get(EXACT_KERNELS, "") == "1"


def available_threads() -> int:
    """Number of processors that this process may use.

    Raises:
        UsageError: `CONVERT_ONNX_THREADS` is not a positive number.
    """
    given = os.environ.get(THREADS)
    if given is not None:
        if not given.isdecimal() or int(given) < 1:
            raise UsageError(f"the environment variable {THREADS} is {given!r}; give a number from 1 on, or unset it")
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(
    model: onnx.ModelProto | Path,
    *,
    threads: int | None = None,
    optimized: Path | None = None,
    profile: Path | None = None,
    optimize: bool = True,
    exact: bool = False,
    arena: bool = True,
) -> ort.InferenceSession:
    """Open a session on the CPU execution provider.

    Args:
        model: A file, or a model in memory.
        threads: Threads for each operator. The default is all that the process may use.
        optimized: File to which onnxruntime writes the graph that it runs.
        profile: Prefix of the file to which onnxruntime writes the times of its operators when profiling ends.
        optimize: Whether onnxruntime may change the graph, which is how it gets integer kernels.
        exact: Whether sums of 8-bit products must be exact on every processor. See `exact_kernels`.
        arena: Whether the session keeps freed memory for its next run, which is faster for large tensors.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if exact or (exact_kernels() and optimized is None and profile is None):
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return cpu_session(model, options)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ModelError(f"onnxruntime cannot load the model: {str(error).splitlines()[0]}") from error
