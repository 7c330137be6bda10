"""Lines that a command prints. Names of models and users are shown as they are."""

import click

from converter.display.plain import one_line

__all__ = ["say"]


def say(text: object, *, error: bool = False) -> None:
    """Print one line to stdout, or to stderr. Control characters in it are shown, and not sent."""
    click.echo(one_line(text), err=error)
