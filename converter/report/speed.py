"""What was measured to decide which activations stay in float, as tables."""

from rich.console import RenderableType

from converter.latency import THREADS
from converter.report.table import plain_table
from converter.speed.search import Speed

__all__ = ["speed_tables"]


def speed_tables(speed: Speed | None) -> list[RenderableType]:
    """How long the files take, and which layers' activations were left in float; nothing where nothing was measured."""
    if speed is None:
        return []
    table = plain_table("Measured speed", ["file", "latency", "over float"], numbers={1, 2})
    files = {"float": speed.float_ms, "every layer on integers": speed.integer_ms, "as written": speed.chosen_ms}
    for name, milliseconds in files.items():
        table.add_row(name, f"{milliseconds:.2f} ms", f"{speed.float_ms / milliseconds:.2f}x")
    tried = f"{len(speed.attempts)} choices tried, one image, {THREADS} thread"
    if speed.layers:
        names = ", ".join(speed.layers)
        table.caption = f"float activations in {names}: {speed.gain:.2f}x faster than on integers; {tried}"
    else:
        table.caption = f"no layer is faster with float activations; {tried}"
    return [table]
