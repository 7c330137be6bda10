"""Facts of real conversions for the tests of the report."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from converter import Recipe, convert, find_recipe
from converter.report.facts import report_facts
from passes.activation_ranges import ActivationRanges
from passes.awq import Awq
from passes.exclude import Exclude
from passes.smoothquant import SmoothQuant
from tests.models_zoo import images, small_cnn

__all__ = ["facts_of", "fifty_layers", "paths", "searched"]


def facts_of(recipe: str | Recipe = "int4", target: str = "cpu", *, evaluation: bool = False) -> dict[str, Any]:
    """The report of a small network."""
    unseen = images(16, seed=3)
    labels = np.arange(len(unseen)) % 5
    result = convert(
        small_cnn(), images(32), recipe=recipe, target=target, evaluation=(unseen, labels) if evaluation else None
    )
    return report_facts(result, model="m.onnx", output="out.onnx", before=4000, after=1000)


def searched() -> Recipe:
    """Both searches, and a layer that is left out."""
    steps = find_recipe("int4").passes
    place = next(place for place, step in enumerate(steps) if isinstance(step, ActivationRanges))
    extra = (Exclude(("deep",)), SmoothQuant(), Awq(steps=2))
    return Recipe("searched", "all there is", (*steps[:place], *extra, *steps[place:]))


def fifty_layers(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a network that has the layers and tensors of ``facts`` thirteen times over."""
    large = copy.deepcopy(facts)
    for place in range(1, 13):
        prefix = f"features.{place}.block.with_a_long_name."
        large["layers"] += [{**layer, "name": prefix + layer["name"]} for layer in facts["layers"]]
        large["activations"] += [{**row, "tensor": prefix + row["tensor"]} for row in facts["activations"]]
        for whole, step in zip(large["passes"], facts["passes"], strict=True):
            for key in ("changed", "skipped", "grids"):
                whole[key] |= {prefix + name: value for name, value in step[key].items()}
    return large


def paths(value: Any, path: Sequence[str | int] = ()) -> list[tuple[str | int, ...]]:
    """Where every key of every object lies."""
    found: list[tuple[str | int, ...]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        if isinstance(value, dict):
            found.append((*path, key))
        found += paths(below, (*path, key))
    return found
