"""Steps that Ctrl-C and SIGTERM must not cut in two."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["signals_held"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block.

    The handlers are exchanged. A signal mask would not do: it is that of one thread, and the threads of numpy and
    onnxruntime take signals too. Python runs handlers in the main thread only, so other threads have nothing to delay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {number: handler for number in _NUMBERS if (handler := signal.getsignal(number)) is not None}
    try:
        for number in before:
            signal.signal(number, lambda number, _: waiting.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in waiting:
            signal.raise_signal(late)
