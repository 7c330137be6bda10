"""A value at a glance: one line in a console, a few lines as text, a small table in a notebook.

>>> class Weather(Overview):
...     def overview(self) -> Glance:
...         return Glance("Weather of 2 towns", ("town", "°C"), (("Ulm", "21"), ("<Bonn>", "9")), numbers=(1,))
>>> Weather()
<Weather of 2 towns>
>>> print(Weather().summary())
Weather of 2 towns
town    °C
Ulm     21
<Bonn>   9
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Glance", "Overview"]


@dataclass(frozen=True)
class Glance:
    """What is worth looking at first.

    Attributes:
        headline: one line that says what the value is.
        columns: headers of the table.
        rows: its cells.
        notes: lines below the table.
        numbers: columns that are set to the right.
        below: what else is worth looking at.
    """

    headline: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Sequence[int] = ()
    below: "Glance | None" = None

    def text(self) -> str:
        """Plain lines; columns of numbers are set to the right."""
        table = [self.columns, *self.rows] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if place in self.numbers else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in table
        ]
        below = [] if self.below is None else [self.below.text()]
        return "\n".join([self.headline, *lines, *self.notes, *below])

    def html(self) -> str:
        """The same as a table. Every text is escaped."""
        parts = [f"<p><b>{html.escape(self.headline)}</b></p>"]
        if self.rows:
            body = "".join(self._html_row("td", cells) for cells in self.rows)
            head = self._html_row("th", self.columns)
            parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")
        parts += [f"<p><small>{html.escape(note)}</small></p>" for note in self.notes]
        parts += [] if self.below is None else [self.below.html()]
        return f"<div>{''.join(parts)}</div>"

    def _html_row(self, tag: str, cells: Sequence[str]) -> str:
        sides = ["right" if place in self.numbers else "left" for place in range(len(cells))]
        inner = "".join(
            f'<{tag} style="padding: 0.2em 0.8em; text-align: {side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{inner}</tr>"


class Overview:
    """Base of values that a person looks at; a subclass says what there is to see."""

    def overview(self) -> Glance:
        """The headline and the table of this value."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it looks like")

    def summary(self) -> str:
        """A few lines of plain text."""
        return self.overview().text()

    def __repr__(self) -> str:
        return f"<{self.overview().headline}>"

    def _repr_html_(self) -> str:
        return self.overview().html()
