"""Overview of a value: one line in a console, a few lines as text, a small table in a notebook.

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

from converter.display.plain import one_line

__all__ = ["Glance", "Overview"]


@dataclass(frozen=True)
class Glance:
    """Content of an overview.

    Attributes:
        headline: One line that describes the value.
        columns: Headers of the table.
        rows: Cells of the table.
        notes: Lines below the table.
        numbers: Indices of the columns that are aligned to the right.
        below: A second overview below this one, or None.
    """

    headline: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Sequence[int] = ()
    below: "Glance | None" = None

    def text(self) -> str:
        """Return plain text. Columns of numbers are aligned to the right."""
        table = [tuple(map(one_line, cells)) for cells in ([self.columns, *self.rows] if self.rows else [])]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if index in self.numbers else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in table
        ]
        below = [] if self.below is None else [self.below.text()]
        return "\n".join([one_line(self.headline), *lines, *map(one_line, self.notes), *below])

    def html(self) -> str:
        """Return an HTML table. Every text is escaped."""
        parts = [f"<p><b>{html.escape(one_line(self.headline))}</b></p>"]
        if self.rows:
            body = "".join(self._html_row("td", cells) for cells in self.rows)
            head = self._html_row("th", self.columns)
            parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")
        parts += [f"<p><small>{html.escape(one_line(note))}</small></p>" for note in self.notes]
        parts += [] if self.below is None else [self.below.html()]
        return f"<div>{''.join(parts)}</div>"

    def _html_row(self, tag: str, cells: Sequence[str]) -> str:
        sides = ["right" if index in self.numbers else "left" for index in range(len(cells))]
        inner = "".join(
            f'<{tag} style="padding: 0.2em 0.8em; text-align: {side}">{html.escape(one_line(cell))}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{inner}</tr>"


class Overview:
    """Base class of values with an overview. A subclass defines `overview`."""

    def overview(self) -> Glance:
        """Return the headline and the table of this value."""
        raise NotImplementedError(f"{type(self).__name__} does not override overview()")

    def summary(self) -> str:
        """Return the overview as plain text."""
        return self.overview().text()

    def __repr__(self) -> str:
        return f"<{one_line(self.overview().headline)}>"

    def _repr_html_(self) -> str:
        return self.overview().html()
