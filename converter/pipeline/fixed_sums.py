"""Sums in one order, so that a file has the same bytes on machines with different numbers of cores.

The BLAS of numpy and scipy shares a sum among its threads, and so does torch. The last digits of the sum depend on how
many threads there are, and a few codes on the last digits. onnxruntime shares outputs among its threads, never a sum.
"""

import contextlib
import importlib.util
from collections.abc import Iterator

import scipy.linalg  # noqa: F401  (its BLAS must be there to be limited)
from threadpoolctl import threadpool_limits

__all__ = ["fixed_sums"]


@contextlib.contextmanager
def fixed_sums(wanted: bool, *, learns: bool) -> Iterator[None]:
    """Compute every sum of the `with` block on one thread, if wanted. It holds for the whole process.

    Args:
        wanted: Whether to do so. See `Settings.deterministic`.
        learns: Whether the block may learn with torch.
    """
    if not wanted:
        yield
        return
    with threadpool_limits(1, user_api="blas"), _torch_on_one_thread() if learns else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _torch_on_one_thread() -> Iterator[None]:
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
