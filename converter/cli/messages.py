"""Translation of the library's messages into the options of the command line.

The library names an argument by its Python parameter, in backticks: ``give `calibration=` `` or
`` `limit=0` leaves no samples ``. The command line shows the option of this parameter instead: ``give --calibration``,
``--limit 0 leaves no samples``. The options come from the commands themselves, so there is no second list.
"""

import ast
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from converter.cli.lines import say

__all__ = ["in_options", "in_words_of", "logged_warnings", "options_of"]

_PARAMETER = re.compile(r"`(\w+)=([^`]*)`")


def options_of(group: click.Group, chosen: str | None = None) -> dict[str, str]:
    """Return the option of each parameter, over all commands. The ``chosen`` command takes precedence."""
    commands = sorted(group.commands.items(), key=lambda named: named[0] == chosen)
    options = {}
    for _, command in commands:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name is not None:
                options[parameter.name] = parameter.opts[-1]
    return options


def in_options(message: str, options: Mapping[str, str]) -> str:
    """Return the message with options in place of parameters. Parameters without an option do not change.

    >>> options = {"bits": "--bits", "limit": "--limit", "exclude": "--exclude", "measure_speed": "--measure-speed"}
    >>> in_options("`bits={'conv1': 9}` is too much; give `limit=`", options)
    '--bits conv1=9 is too much; give --limit'
    >>> in_options("`exclude=['a', 'b']`, `measure_speed=True` and `seed=1`", options)
    '--exclude a --exclude b, --measure-speed and `seed=1`'
    """

    def replaced(match: re.Match[str]) -> str:
        option = options.get(match[1])
        return match[0] if option is None else _spelled(option, match[2])

    return _PARAMETER.sub(replaced, message)


def _spelled(option: str, given: str) -> str:
    """Return an option with its value, as a user types it."""
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


def in_words_of(context: click.Context, message: str) -> str:
    """Return a message in the options of the command that runs."""
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    return in_options(message, options_of(root.command, root.invoked_subcommand))


class _Printer(logging.Handler):
    """Handler that prints warnings of the library, one line each."""

    def __init__(self, spelled: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._spelled = spelled

    def emit(self, record: logging.LogRecord) -> None:
        say(f"Warning: {self._spelled(record.getMessage())}", error=True)


@contextmanager
def logged_warnings(spelled: Callable[[str], str]) -> Iterator[None]:
    """Print the library's warnings while a command runs. ``spelled`` translates them into options."""
    log, printer = logging.getLogger("converter"), _Printer(spelled)
    log.addHandler(printer)
    try:
        yield
    finally:
        log.removeHandler(printer)
