"""Table of the latencies that decided which activations stay in float."""

from rich.console import RenderableType

from converter.display.numbers import milliseconds, times
from converter.report.table import SPREAD, plain_table, row
from converter.runtime.latency import THREADS
from converter.speed.search import Speed

__all__ = ["speed_tables"]


def speed_tables(speed: Speed | None) -> list[RenderableType]:
    """Build the table of latencies and of layers with float activations. The list is empty if nothing was measured."""
    if speed is None:
        return []
    table = plain_table("Measured speed", ["file", "latency", "over float"], numbers={1, 2})
    row(table, "float", milliseconds(speed.float_ms), "1.00x")
    speedup = speed.float_ms / speed.integer_ms
    row(table, "every layer on integers", milliseconds(speed.integer_ms), times(speedup, speed.integer_quartiles))
    tried = f"{len(speed.attempts)} choices tried, one sample, {THREADS} thread"
    if speed.layers:
        speedup, names = speed.float_ms / speed.chosen_ms, ", ".join(speed.layers)
        row(table, "as written", milliseconds(speed.chosen_ms), times(speedup, speed.chosen_quartiles))
        gain = times(speed.gain, speed.gain_quartiles)
        table.caption = f"float activations in {names}: {gain} as fast as on integers; {tried}; {SPREAD}"
    else:
        row(table, "as written", "the same file", "")
        table.caption = f"no layer is faster with float activations; {tried}; {SPREAD}"
    return [table]
