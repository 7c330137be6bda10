"""Content of a report as JSON values. `report.schema.json` describes them, and the HTML page shows them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from converter.display.json_values import finite
from converter.model_io.sizes import serialized_bytes
from converter.pipeline.result import LayerReport, Result, versions
from converter.qdq.stored_weights import StoredWeight, Tensors, find_weights, layer_roles
from converter.recipes.toml import recipe_values
from passes.arguments import require_type
from passes.base import Stage
from passes.report import CoveredRange, LossGrid, PassReport

__all__ = ["VERSION", "conversion_facts", "report_facts"]

VERSION = 1  # of the format; it increases with every change that breaks programs that read reports


def report_facts(
    result: Result,
    *,
    model: str = "model",
    output: str = "output",
    before: int | None = None,
    after: int | None = None,
) -> dict[str, Any]:
    """Return the whole content of a report as JSON values.

    Args:
        result: The conversion.
        model: Name of the model that was converted.
        output: Name of the file that was written.
        before: Bytes of the model. The default is the size of `Result.reference`.
        after: Bytes of the file. The default is the size of `Result.model`.
    """
    require_type("result", result, Result, "the result of a conversion")
    sizes = {
        "before": serialized_bytes(result.reference) if before is None else before,
        "after": serialized_bytes(result.model) if after is None else after,
    }
    files = {"model": model, "output": output, "bytes": sizes}
    verdict = result.verdict(sizes["before"], sizes["after"]).to_json()
    facts = conversion_facts(result)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"version": facts.pop("version"), "created": created, **files, "verdict": verdict, **facts}


def conversion_facts(result: Result) -> dict[str, Any]:
    """Return the content of a report without its files. Infinite and undefined numbers become null."""
    stages = {step.name: step.stage for step in result.recipe.passes}
    values: dict[str, Any] = {
        "version": VERSION,
        "recipe": recipe_values(result.recipe),
        "target": result.target,
        "calibration": result.calibration,
        "training": result.training,
        "versions": versions(),
        "seconds": round(result.seconds, 3),
        "steps": [dataclasses.asdict(step) | {"seconds": round(step.seconds, 3)} for step in result.steps],
        "latency": None if result.latency is None else dataclasses.asdict(result.latency),
        "fidelity": None if result.fidelity is None else result.fidelity.to_json(),
        "mending": None if result.mending is None else result.mending.to_json(),
        "metrics": None if result.metrics is None else result.metrics.to_json(),
        "sqnr_of": result.recipe.sqnr_of,
        "layers": list(_layers(result)),
        "activations": [_activation(tensor, covered) for tensor, covered in _ranges(result.passes).items()],
        "passes": [_pass(report, stages[report.name]) for report in result.passes],
        "speed": None if result.speed is None else result.speed.to_json(),
        "search": None if result.search is None else result.search.to_json(),
    }
    content: dict[str, Any] = finite(values)
    return content


def _layers(result: Result) -> Iterator[dict[str, Any]]:
    """Yield the facts of each layer, with the storage and the bytes of its weights in the file."""
    tensors = Tensors.of(result.model.graph)
    nodes = {node.name: node for node in reversed(tensors.nodes) if layer_roles(node) is not None}  # the outermost wins
    for layer in result.layers:
        weights = find_weights(nodes[layer.name], tensors) if layer.name in nodes else ()  # an Einsum has no roles
        storage = " and ".join(dict.fromkeys(_storage(layer, stored) for stored in weights))
        count = sum(stored.bytes for stored in weights)
        yield dataclasses.asdict(layer) | {"storage": storage or "none", "bytes": count}


def _storage(layer: LayerReport, stored: StoredWeight) -> str:
    if any(node.op_type == "MatMulNBits" for node in stored.operators):
        return f"matmulnbits {layer.stored_bits}"
    return stored.storage


def _ranges(reports: Sequence[PassReport]) -> dict[str, CoveredRange]:
    """Return the covered range of each tensor. If several passes set its grid, the last one counts."""
    return {tensor: covered for report in reports for tensor, covered in report.ranges.items()}


def _activation(tensor: str, covered: CoveredRange) -> dict[str, Any]:
    grid = covered.grid
    low, high = grid.ends
    return {
        "tensor": tensor,
        "type": np.dtype(grid.dtype).name,
        "scale": float(grid.scale),
        "zero_point": grid.zero_point,
        "low": low,
        "high": high,
        "seen_low": covered.low,
        "seen_high": covered.high,
        "clipped": covered.clipped,
    }


def _pass(report: PassReport, stage: Stage) -> dict[str, Any]:
    return {
        "name": report.name,
        "stage": stage.name.lower(),
        "changed": {name: change.what for name, change in report.changed.items()},
        "skipped": dict(report.skipped),
        "notes": list(report.notes),
        "grids": _grids(report.grids),
    }


def _grids(grids: Mapping[str, LossGrid]) -> dict[str, Any]:
    return {
        name: {"axes": dict(grid.axes), "losses": grid.losses.tolist(), "plain": grid.plain}
        for name, grid in grids.items()
    }
