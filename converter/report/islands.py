"""Table of float islands: operators that run in float between integer operators."""

from rich.console import RenderableType

from converter.inspection.inspect import Inspection
from converter.report.table import plain_table, row

__all__ = ["islands_tables"]

_LONGEST = 6  # operators of one island that the table names


def islands_tables(inspection: Inspection) -> list[RenderableType]:
    """Build the table of what onnxruntime computes in float between integers. The list is empty if there is none."""
    islands = inspection.model["islands"]
    if not islands:
        return []
    table = plain_table("Float between integers", ["operators", "times", "dequantized", "quantized"], numbers={1, 2, 3})
    for island in islands:
        operators = island["operators"]
        more = f" and {len(operators) - _LONGEST} more" if len(operators) > _LONGEST else ""
        counts = (island["count"], island["dequantize"], island["quantize"])
        row(table, ", ".join(operators[:_LONGEST]) + more, *map(str, counts))
    table.caption = "onnxruntime has no integer kernel for them, or their layers' activations were left in float"
    return [table]
