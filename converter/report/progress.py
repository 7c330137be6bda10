"""Progress on stderr: bars in a terminal, and lines elsewhere, so that a log is never silent for long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from converter.display.numbers import seconds
from converter.display.plain import one_line, shortened
from converter.runtime.session import Progress as Callback
from converter.runtime.session import no_progress

__all__ = ["progress_bars", "progress_lines"]

_NARROW = 80  # columns
_EVERY = 30.0  # seconds between lines
_SHORT = 5.0  # seconds; work that takes less has no line


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Callback]:
    """Yield a callback that draws one bar for each kind of work, with its elapsed and its remaining time.

    If stderr is not a terminal, or if the terminal cannot move its cursor, it prints lines instead: one when work of
    more than five seconds ends, and one every 30 seconds. With ``quiet``, it shows nothing.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if quiet:
        yield no_progress
        return
    if not console.is_terminal or console.is_dumb_terminal:
        with progress_lines() as update:
            yield update
        return
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(None if console.width < _NARROW else 40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, expand=console.width < _NARROW) as bars:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(shortened(what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


class _Lines:
    """Work that is going on, as lines on stderr. Only the last kind of work is known.

    Args:
        short: Seconds. Work that takes less has no line when it ends.
    """

    def __init__(self, short: float) -> None:
        self._short = short
        self._lock = threading.Lock()
        self._what, self._done, self._total = "", 0, 0
        self._started = self._seen = time.monotonic()

    def update(self, what: str, done: int, total: int) -> None:
        """Take note of progress. Print a line if this work has ended."""
        with self._lock:
            if what != self._what or done < self._done:
                self._started = self._seen  # the first call comes when a part of the work is done
            self._what, self._done, self._total, self._seen = what, done, total, time.monotonic()
            if done >= total and self._seen - self._started >= self._short:
                _print(self._line())

    def tell(self) -> None:
        """Print a line on what is going on."""
        with self._lock:
            if self._done < self._total:
                _print(self._line())
            else:
                since = f" since {shortened(self._what)} ended" if self._what else ""
                _print(f"working for {_ago(self._seen)}{since}")

    def _line(self) -> str:
        spent = time.monotonic() - self._started
        text = f"{shortened(self._what)}: {self._done:,} of {self._total:,} in {seconds(spent)}"
        if not 0 < self._done < self._total:
            return text
        return f"{text}, about {seconds(spent * (self._total - self._done) / self._done)} left"


def _print(line: str) -> None:
    """Print a line to stderr. If nobody reads it, or there is none, the work goes on."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{one_line(line)}\n")
            sys.stderr.flush()


def _ago(moment: float) -> str:
    return seconds(time.monotonic() - moment)


@contextmanager
def progress_lines(every: float = _EVERY, short: float = _SHORT) -> Iterator[Callback]:
    """Yield a callback that prints lines to stderr.

    Args:
        every: Seconds between lines.
        short: Seconds. Work that takes less has no line when it ends.
    """
    lines, ended = _Lines(short), threading.Event()

    def tell() -> None:
        while not ended.wait(every):
            lines.tell()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield lines.update
    finally:
        ended.set()
        thread.join()
