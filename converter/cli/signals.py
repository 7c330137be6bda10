"""Ctrl-C and SIGTERM while a command runs: one line, exit code 130 or 143, and nothing left behind.

Both signals unwind the stack with an exception, so that temporary files are removed. But an exception in the middle of
an import does harm: a library in C++ whose module could not be set up says "initialization failed" or crashes. So a
signal during an import waits until the import is done. A second signal ends the process at once.
"""

import os
import signal
from types import FrameType

from converter.model_io.user_code import Terminated

__all__ = ["WORDS", "listen", "stop_listening"]

WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}
_AGAIN = 0.02  # seconds until a signal that waits is looked at again


def listen() -> None:
    """Let both signals end the command. Signals that the caller ignores, as `nohup` does, stay ignored."""
    stopper = _Stopper()
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stopper)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, stopper)


def stop_listening() -> None:
    """Let both signals end the process without a word, since the command is done and Python is leaving."""
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


class _Stopper:
    """Handler of the signals. It holds the one that waits for the end of an import."""

    def __init__(self) -> None:
        self._waiting: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number not in WORDS:  # the alarm: the signal comes again, and may meet the handler of `signals_held`
            again, self._waiting = self._waiting, None
            if again is not None:
                signal.raise_signal(again)
            return
        if self._waiting is not None:
            os._exit(128 + number)
        if hasattr(signal, "setitimer") and _imports(frame):
            self._waiting = number
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(128 + number)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import statement is being executed. A user's FILE.py is loaded without one."""
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
