"""Progress bars on stderr. They are drawn only in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

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

from converter.display.plain import shortened
from converter.runtime.session import Progress as Callback

__all__ = ["progress_bars"]

_NARROW = 80  # columns


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Callback]:
    """Yield a callback that draws one bar for each kind of work, with its elapsed and its remaining time.

    The callback draws nothing if ``quiet`` is set, if stderr is not a terminal, or if the terminal cannot move its
    cursor.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(None if console.width < _NARROW else 40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim", markup=False),
        TimeRemainingColumn(compact=True),
    )
    no_progress = quiet or not console.is_terminal or console.is_dumb_terminal
    with Progress(
        *columns, console=console, transient=True, disable=no_progress, expand=console.width < _NARROW
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(shortened(what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update
