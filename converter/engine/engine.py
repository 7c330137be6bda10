"""Engine: runs independent tasks, in this process or on workers, behind one interface."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from converter.engine.shelf import Shelf

__all__ = ["Engine", "InProcess", "Lost", "Task"]

Task = TypeVar("Task")
Lost = Callable[[Any, str], Any]
"""Called with a task whose workers kept dying, and the reason. It returns what stands for the result, or raises."""


class Engine(Protocol):
    """Runs independent tasks.

    Attributes:
        shares_disk: Whether tasks see the files of this process.
        workers: Number of tasks that run at the same time.
        shelf: Where large arguments and results lie.
    """

    @property
    def shares_disk(self) -> bool: ...

    @property
    def shelf(self) -> Shelf: ...

    @property
    def workers(self) -> int: ...

    def results(self, work: Callable[[Task], Any], tasks: Sequence[Task], lost: Lost) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task and its result, in the order in which they are done.

        Args:
            work: Function of a module, that workers can import. Its result is small, since it passes the scheduler.
            tasks: Arguments of the function, one for each call.
            lost: What stands for the result of a task whose workers died again and again.

        Raises:
            Exception: What the function raises.
        """
        ...


class InProcess:
    """One task after another, in this process."""

    shares_disk, workers, shelf = True, 1, Shelf()

    def results(self, work: Callable[[Task], Any], tasks: Sequence[Task], lost: Lost) -> Iterator[tuple[int, Any]]:
        """Yield the index of each task and its result, in order."""
        for index, task in enumerate(tasks):
            yield index, work(task)
