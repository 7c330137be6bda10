"""Search for layers that this machine runs faster with float activations.

Two files are profiled, one with all layers on integers and one with all layers in float. Their difference shows which
layers may gain. Neighbours among these are tried together, because each change between integers and floats costs a
quantization. Then the whole file is timed with and without them, in turns, on one thread. A change is kept only if the
file becomes at least 1 % faster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch
from converter.recipes.recipe import Recipe
from converter.runtime.latency import Quartiles, interleaved_times, speedup_quartiles
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from converter.speed.profile import layer_seconds, node_seconds
from converter.speed.trial import Trials
from converter.targets.target import Target
from passes.activations.float_activations import FloatActivations
from passes.base import Stage
from passes.errors import UsageError

__all__ = ["FloatTrial", "Speed", "find_slow_layers", "leaving", "require_measurable"]

_LEAST_GAIN = 1.01
_FASTER = 0.7  # share of the rounds in which the change has to be faster; by chance it is 0.5
_UNDISTURBED = 0.25  # quantile of the times that is compared; other work on the machine affects the larger times
_RUNS = 20  # runs of one profile
_ROUNDS = 30
_SECONDS = 3.0  # limit of one comparison
_WORTH = 0.005  # share of the file's time that a group has to gain in the profile to be tried
_STEM = 3  # first layers of the network that are tried whatever the profile shows


@dataclass(frozen=True)
class FloatTrial:
    """Layers that were tried together with float activations.

    Attributes:
        layers: Names of the layers.
        gain: Speed of the file relative to the file without this change.
        kept: Whether the change was kept.
    """

    layers: tuple[str, ...]
    gain: float
    kept: bool


@dataclass(frozen=True)
class Speed:
    """Results of the search. Every field goes into the report and the file.

    Attributes:
        float_ms: Median milliseconds per image of the float model, one thread.
        integer_ms: The same for the file with every possible layer on integers.
        chosen_ms: The same for the chosen file.
        gain: Speed of the chosen file relative to the file on integers, by the lower quartiles of their times.
        layers: Layers whose activations stay in float.
        attempts: Everything that was tried.
        integer_quartiles: Quartiles over the rounds of the speed of the file on integers relative to float.
        chosen_quartiles: Quartiles over the rounds of the speed of the chosen file relative to float.
        gain_quartiles: Quartiles over the rounds of the speed of the chosen file relative to the file on integers.
    """

    float_ms: float
    integer_ms: float
    chosen_ms: float
    gain: float
    layers: tuple[str, ...]
    attempts: tuple[FloatTrial, ...]
    integer_quartiles: Quartiles
    chosen_quartiles: Quartiles
    gain_quartiles: Quartiles

    def to_json(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        return asdict(self)


def require_measurable(recipe: Recipe, target: Target) -> None:
    """Check that the search applies to the recipe and the target.

    Raises:
        UsageError: The target is not this machine's CPU, or the recipe quantizes no activations.
    """
    if target.provider != "cpu":
        raise UsageError(
            f"`measure_speed=True` times the CPU of this machine, and target {target.name} runs elsewhere; leave it out"
        )
    if not any(step.stage == Stage.RANGES and step.needs_data for step in recipe.passes):
        raise UsageError(
            f"recipe {recipe.name!r} quantizes no activations, so `measure_speed=True` has no effect; leave it out"
        )


def find_slow_layers(
    source: onnx.ModelProto, recipe: Recipe, target: Target, sample: Batch, progress: Progress
) -> Speed:
    """Find the layers that make the file faster if their activations stay in float.

    Args:
        source: The float model.
        recipe: Recipe of the file.
        target: The target.
        sample: At least one image, or one whole run.
        progress: Called with "measuring speed" before every trial.
    """
    trials = Trials(source, recipe, target)
    race = _Race(sample)
    wins = _expected(trials, race)
    best: frozenset[str] = frozenset()
    champion = plain = race.runner(trials.file(()))
    waiting = _candidates(trials, wins)
    attempts: list[FloatTrial] = []
    while waiting:
        layers = [name for name in waiting.pop(0) if name not in best]
        progress("measuring speed", len(attempts), len(attempts) + len(waiting) + 1)
        if not layers or any(set(layers) == set(attempt.layers) for attempt in attempts):
            continue
        challenger = race.runner(trials.file(best.union(layers)))
        gain, kept = race.compare(champion, challenger)
        attempts.append(FloatTrial(tuple(layers), gain, kept))
        if kept:
            best, champion = best.union(layers), challenger
        elif len(layers) > 1:
            waiting[:0] = [[name] for name in _largest(layers, wins)]
    gain, faster = race.compare(plain, champion) if best else (1.0, True)
    if not faster:
        best, champion, gain = frozenset(), plain, 1.0
    times = race.times([race.runner(source), plain, *([champion] if best else [])])
    times = times[:, [0, 1, -1]]  # without float layers, the file on integers is also the chosen file
    first, second, third = (float(median) for median in np.median(times, axis=0) * 1e3)
    _, integer, chosen = speedup_quartiles(times)
    _, over_integers = speedup_quartiles(times[:, 1:])
    order = tuple(layer.name for layer in trials.layers if layer.name in best)
    return Speed(first, second, third, gain, order, tuple(attempts), integer, chosen, over_integers)


def leaving(recipe: Recipe, speed: Speed) -> Recipe:
    """Add the chosen layers to the recipe. Running that recipe gives the same file without a measurement."""
    if not speed.layers:
        return recipe
    step = FloatActivations(speed.layers, f"float activations: measured faster, the whole file by {speed.gain:.2f}x")
    return recipe.with_pass(step)


class _Race:
    """Times files side by side on one image."""

    def __init__(self, sample: Batch) -> None:
        self.sample = sample

    def runner(self, model: onnx.ModelProto) -> Runner:
        return Runner(model, "trial", threads=1)

    def inputs(self, runner: Runner) -> dict[str, NDArray[Any]]:
        feeds = runner.inputs(self.sample.feeds)
        if self.sample.whole:
            return feeds
        return {name: np.repeat(rows[:1], runner.batch or 1, 0) for name, rows in feeds.items()}

    def times(self, runners: Sequence[Runner]) -> NDArray[np.float64]:
        """Return seconds per image, [rounds, runners]."""
        calls = [partial(runner.execute, self.inputs(runner)) for runner in runners]
        batches = np.array([1 if self.sample.whole else runner.batch or 1 for runner in runners], np.float64)
        seconds: NDArray[np.float64] = interleaved_times(calls, rounds=_ROUNDS, budget=_SECONDS) / batches
        return seconds

    def compare(self, champion: Runner, challenger: Runner) -> tuple[float, bool]:
        """Return the speed of the challenger relative to the champion, and whether the gain is more than chance."""
        times = self.times([champion, challenger])
        gain = float(np.divide(*np.quantile(times, _UNDISTURBED, axis=0)))
        return gain, gain >= _LEAST_GAIN and float((times[:, 0] > times[:, 1]).mean()) >= _FASTER


def _expected(trials: Trials, race: _Race) -> dict[str, float]:
    """Return, from the profile, the share of the file's time that each layer saves in float without added rounding."""
    everything = frozenset(layer.name for layer in trials.layers)
    nodes = {layer.name: trials.nodes_of(layer) for layer in trials.layers}
    profiles = []
    for chosen in (frozenset[str](), everything):
        file = trials.file(chosen)
        profiles.append(node_seconds(file, race.inputs(race.runner(file)), _RUNS))
    integers, floats = (layer_seconds(times, nodes) for times in profiles)
    whole = sum(profiles[0].values())
    return {name: (integers[name] - floats[name]) / whole for name in nodes if name in integers and name in floats}


def _candidates(trials: Trials, wins: Mapping[str, float]) -> list[list[str]]:
    """List what to try: groups of neighbours that all gain (largest gain first), the first layers, then all layers."""
    following = _following(trials)
    groups: list[list[str]] = []
    waiting = {name for name, share in wins.items() if share > 0}
    for layer in trials.layers:
        group, front = [], [layer.name]
        while front:
            name = front.pop()
            if name in waiting:
                waiting.remove(name)
                group.append(name)
                front += following[name]
        if sum(wins[name] for name in group) >= _WORTH:
            groups.append(group)
    groups.sort(key=lambda group: -sum(wins[name] for name in group))
    names = [layer.name for layer in trials.layers]
    return [*groups, *(names[:count] for count in range(_STEM, 0, -1)), names]


def _largest(layers: Sequence[str], wins: Mapping[str, float]) -> list[str]:
    """Choose which layers of a group that gained nothing are tried alone."""
    promising = [name for name in layers if wins.get(name, 0.0) >= _WORTH]
    return sorted(promising, key=lambda name: -wins[name])[:_STEM]


def _following(trials: Trials) -> dict[str, list[str]]:
    """Return the neighbours of every layer: layers before and behind it without another linear layer in between."""
    makers = {str(tensor.name): node for node in trials.model.graph.nodes for tensor in node.outputs}
    names = {layer.name for layer in trials.layers}
    neighbours: dict[str, list[str]] = {name: [] for name in names}
    for layer in trials.layers:
        front, seen = [layer.input], set()
        while front:
            node = makers.get(front.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.name in names:
                neighbours[layer.name].append(node.name)
                neighbours[node.name].append(layer.name)
            else:
                front += [str(tensor.name) for tensor in node.inputs]
    return neighbours
