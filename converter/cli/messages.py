"""Messages of the library in the words of the command line.

The library names what a caller gave by its Python parameter, in backticks: ``give `calibration=` `` or
`` `limit=0` leaves no images ``. The command line shows the option that becomes this parameter: ``give --calibration``,
``--limit 0 leaves no images``. Both are read off the commands themselves, so there is no list to keep.
"""

import ast
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["in_options", "logged_warnings", "options_of"]

_PARAMETER = re.compile(r"`(\w+)=([^`]*)`")


def options_of(group: click.Group, chosen: str | None = None) -> dict[str, str]:
    """The option for each parameter, over all commands; those of the ``chosen`` command come first."""
    commands = sorted(group.commands.items(), key=lambda named: named[0] == chosen)
    found = {}
    for _, command in commands:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name is not None:
                found[parameter.name] = parameter.opts[-1]
    return found


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message with options in place of parameters; parameters that no option gives stay as they are.

    >>> options = {"bits": "--bits", "limit": "--limit", "exclude": "--exclude", "measure_speed": "--measure-speed"}
    >>> in_options("`bits={'conv1': 9}` is too much; give `limit=`", options)
    '--bits conv1=9 is too much; give --limit'
    >>> in_options("`exclude=['a', 'b']`, `measure_speed=True` and `seed=1`", options)
    '--exclude a --exclude b, --measure-speed and `seed=1`'
    """

    def replaced(found: re.Match[str]) -> str:
        option = options.get(found[1])
        return found[0] if option is None else _spelled(option, found[2])

    return _PARAMETER.sub(replaced, message)


def _spelled(option: str, given: str) -> str:
    """An option with its value, as a user types it."""
    if not given:
        return option
    try:
        value: Any = ast.literal_eval(given)
    except (ValueError, SyntaxError):
        return f"{option} {given}"
    if value is True:
        return option
    if isinstance(value, Mapping):
        return " ".join(f"{option} {name}={each}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(f"{option} {each}" for each in value)
    if isinstance(value, tuple):
        return f"{option} {','.join(map(str, value))}"
    return f"{option} {value if isinstance(value, str) else given}"


class _Printer(logging.Handler):
    """Prints warnings of the library, one line each."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._spelled = spelled

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"Warning: {self._spelled(record.getMessage())}", err=True)


@contextmanager
def logged_warnings(spelled: Callable[[str], str]) -> Iterator[None]:
    """Print what the library warns of while a command runs; ``spelled`` puts it in the words of the command line."""
    log, printer = logging.getLogger("converter"), _Printer(spelled)
    log.addHandler(printer)
    try:
        yield
    finally:
        log.removeHandler(printer)
