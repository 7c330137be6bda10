"""Facts of real conversions for the tests of the report."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from converter import Budget, Recipe, Settings, convert, convert_within, find_recipe
from converter.report.facts import report_facts
from converter.speed.search import FloatTrial, Speed
from passes.activations.activation_ranges import ActivationRanges
from passes.graph.exclude import Exclude
from passes.scale_migration.awq import Awq
from passes.scale_migration.smoothquant import SmoothQuant
from tests.support import networks
from tests.support.models import images, small_cnn

__all__ = ["everything", "facts_of", "fifty_layers", "paths", "searched", "within_bytes"]


def facts_of(recipe: str | Recipe = "int4", target: str = "cpu", *, evaluation: bool = False) -> dict[str, Any]:
    """The report of a small network."""
    unseen = images(16, seed=3)
    labels = np.arange(len(unseen)) % 5
    result = convert(
        small_cnn(), images(32), recipe=recipe, target=target, evaluation=(unseen, labels) if evaluation else None
    )
    return report_facts(result, model="m.onnx", output="out.onnx", before=4000, after=1000)


@functools.cache
def within_bytes() -> dict[str, Any]:
    """The report of a search in which int8 and int4 break the budget."""
    result = convert_within(
        networks.wide(channels=16),
        networks.images(32, 3, 12, 12),
        Budget(max_bytes=12_200, max_latency=1000.0),
        settings=Settings(limit=24),
    )
    return report_facts(result, model="w.onnx", output="out.onnx", before=80_000, after=result.model.ByteSize())


def everything() -> dict[str, Any]:
    """Facts for every section of the page. The search for a budget and the timings come from other networks."""
    return copy.deepcopy(_everything())


@functools.cache
def _everything() -> dict[str, Any]:
    tried = (FloatTrial(("deep",), 1.04, kept=True), FloatTrial(("stem", "up"), 0.97, kept=False))
    timed = Speed(4.0, 2.0, 1.92, 1.04, ("deep",), tried, (1.9, 2.1), (2.0, 2.2), (1.02, 1.06))
    return facts_of(searched(), evaluation=True) | {"search": within_bytes()["search"], "speed": timed.to_json()}


def searched() -> Recipe:
    """A recipe with SmoothQuant, AWQ and an excluded layer."""
    steps = find_recipe("int4").passes
    index = next(index for index, step in enumerate(steps) if isinstance(step, ActivationRanges))
    extra = (Exclude(("deep",)), SmoothQuant(), Awq(steps=2))
    return Recipe("searched", "all there is", (*steps[:index], *extra, *steps[index:]))


def fifty_layers(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a network with thirteen copies of the layers and tensors of ``facts``."""
    large = copy.deepcopy(facts)
    for block in range(1, 13):
        prefix = f"features.{block}.block.with_a_long_name."
        large["layers"] += [{**layer, "name": prefix + layer["name"]} for layer in facts["layers"]]
        large["activations"] += [{**row, "tensor": prefix + row["tensor"]} for row in facts["activations"]]
        for whole, step in zip(large["passes"], facts["passes"], strict=True):
            for key in ("changed", "skipped", "grids"):
                whole[key] |= {prefix + name: value for name, value in step[key].items()}
        if facts["search"] is not None:
            large["search"]["effects"] += [
                {**effect, "name": prefix + effect["name"]} for effect in facts["search"]["effects"]
            ]
            for whole, attempt in zip(large["search"]["attempts"], facts["search"]["attempts"], strict=True):
                whole["layer_bits"] |= {prefix + name: bits for name, bits in attempt["layer_bits"].items()}
    return large


def paths(value: Any, path: Sequence[str | int] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every key of every object."""
    keys: list[tuple[str | int, ...]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        if isinstance(value, dict):
            keys.append((*path, key))
        keys += paths(below, (*path, key))
    return keys
