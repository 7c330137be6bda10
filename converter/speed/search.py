"""The search for layers that this machine runs faster with float activations.

The profile of two files, all on integers and all in float, says which layers could be worth it; neighbours that could
are tried together, since each change between integers and floats costs a rounding. Whether they are worth it the
whole file says: it is timed with and without them, in turns, on one thread, and a change that does not make it faster
by 1 % is not kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.recipes.recipe import Recipe
from converter.runtime.latency import Quartiles, interleaved_times, speedup_quartiles
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from converter.speed.profile import layer_seconds, node_seconds
from converter.speed.trial import Trials
from converter.targets.target import Target
from passes.activations.activation_ranges import ActivationRanges
from passes.activations.float_activations import FloatActivations
from passes.activations.placement import clamp_bounds
from passes.base import Stage
from passes.errors import UsageError
from passes.ir.linear import Linear

__all__ = ["FloatTrial", "Speed", "find_slow_layers", "leaving", "require_measurable"]

_LEAST_GAIN = 1.01
_FASTER = 0.7  # of the rounds; by chance it is half of them
_UNDISTURBED = 0.25  # quantile of the times that is compared: other work on the machine makes the slow ones slower
_RUNS = 20  # of a profile
_ROUNDS = 30
_SECONDS = 3.0  # of one comparison, at most
_WORTH = 0.005  # of the file's time, what the profile must promise of a group of layers
_STEM = 3  # layers from the input that are tried together although the profile may not say so


@dataclass(frozen=True)
class FloatTrial:
    """Layers that were tried together: how many times as fast the file was with their activations in float."""

    layers: tuple[str, ...]
    gain: float
    kept: bool


@dataclass(frozen=True)
class Speed:
    """What was measured; every field goes into the report and the file.

    float_ms    median milliseconds per image of the float model, one thread
    integer_ms  of the file with every layer on integers that can be
    chosen_ms   of the file as it was chosen
    gain        of the file as chosen over the one on integers, both as far as nothing disturbed them
    layers      whose activations stay in float
    attempts    everything that was tried
    integer_quartiles, chosen_quartiles   of how many times as fast as float those two files were, round by round
    gain_quartiles   of how many times as fast as on integers the file as chosen was
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
        """Every field, ready for JSON."""
        return asdict(self)


def require_measurable(recipe: Recipe, target: Target) -> None:
    """Whether there is something to measure.

    Raises:
        UsageError: the target is not this machine's CPU, or the recipe quantizes no activations.
    """
    if target.provider != "cpu":
        raise UsageError(f"--measure-speed times the CPU provider of this machine, target {target.name} runs elsewhere")
    if not any(isinstance(step, ActivationRanges) for step in recipe.passes):
        raise UsageError(
            f"recipe {recipe.name!r} quantizes no activations, so --measure-speed has no use; leave it out"
        )


def find_slow_layers(
    source: onnx.ModelProto, recipe: Recipe, target: Target, feeds: Mapping[str, NDArray[Any]], progress: Progress
) -> Speed:
    """Layers that make the file faster when their activations stay in float; ``feeds`` hold one image at least."""
    trials = Trials(source, recipe, target)
    race = _Race(feeds)
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
    times = times[:, [0, 1, -1]]  # the file on integers is the one that is written, where nothing is left in float
    first, second, third = (float(median) for median in np.median(times, axis=0) * 1e3)
    _, integer, chosen = speedup_quartiles(times)
    _, over_integers = speedup_quartiles(times[:, 1:])
    order = tuple(layer.name for layer in trials.layers if layer.name in best)
    return Speed(first, second, third, gain, order, tuple(attempts), integer, chosen, over_integers)


def leaving(recipe: Recipe, speed: Speed) -> Recipe:
    """The recipe that says what was found: who runs it again gets the same file without a measurement."""
    if not speed.layers:
        return recipe
    found = FloatActivations(speed.layers, f"float activations: measured faster, the file by {speed.gain:.2f}x")
    place = next(index for index, step in enumerate(recipe.passes) if step.stage >= Stage.RANGES)
    return replace(recipe, passes=(*recipe.passes[:place], found, *recipe.passes[place:]))


class _Race:
    """Files side by side on one image."""

    def __init__(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        self.feeds = feeds

    def runner(self, model: onnx.ModelProto) -> Runner:
        return Runner(model, "trial", threads=1)

    def inputs(self, runner: Runner) -> dict[str, NDArray[Any]]:
        return {name: np.repeat(rows[:1], runner.batch or 1, 0) for name, rows in runner.inputs(self.feeds).items()}

    def times(self, runners: Sequence[Runner]) -> NDArray[np.float64]:
        """Seconds per image, [rounds, runners]."""
        calls = [partial(runner.execute, self.inputs(runner)) for runner in runners]
        batches = np.array([runner.batch or 1 for runner in runners], np.float64)
        seconds: NDArray[np.float64] = interleaved_times(calls, rounds=_ROUNDS, budget=_SECONDS) / batches
        return seconds

    def compare(self, champion: Runner, challenger: Runner) -> tuple[float, bool]:
        """How many times as fast the challenger is, and whether that is more than chance."""
        times = self.times([champion, challenger])
        gain = float(np.divide(*np.quantile(times, _UNDISTURBED, axis=0)))
        return gain, gain >= _LEAST_GAIN and float((times[:, 0] > times[:, 1]).mean()) >= _FASTER


def _expected(trials: Trials, race: _Race) -> dict[str, float]:
    """What share of the file's time the profile says each layer would win in float, were nothing else to round."""
    everything = frozenset(layer.name for layer in trials.layers)
    nodes = {layer.name: _nodes(trials, layer) for layer in trials.layers}
    profiles = []
    for chosen in (frozenset[str](), everything):
        file = trials.file(chosen)
        profiles.append(node_seconds(file, race.inputs(race.runner(file)), _RUNS))
    integers, floats = (layer_seconds(times, nodes) for times in profiles)
    whole = sum(profiles[0].values())
    return {name: (integers[name] - floats[name]) / whole for name in nodes if name in integers and name in floats}


def _nodes(trials: Trials, layer: Linear) -> list[str]:
    """Names of the nodes that stand for a layer: itself, the clamp behind it, and what rounds its input and output."""
    readers = trials.model.node(layer.name).outputs[0].outputs
    clamp = readers[0] if len(readers) == 1 and clamp_bounds(readers[0]) is not None else None
    tensors = [layer.input, layer.output if clamp is None else str(clamp.outputs[0].name)]
    rounding = [f"{tensor}_{verb}" for tensor in tensors for verb in ("quantize", "dequantize")]
    return [layer.name, layer.name if clamp is None else str(clamp.name), *rounding]


def _candidates(trials: Trials, wins: Mapping[str, float]) -> list[list[str]]:
    """What to try, the most promising first: neighbours that all win, then the first layers, then all of them."""
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
    """Of layers that were tried together in vain, those to try alone."""
    promising = [name for name in layers if wins.get(name, 0.0) >= _WORTH]
    return sorted(promising, key=lambda name: -wins[name])[:_STEM]


def _following(trials: Trials) -> dict[str, list[str]]:
    """For every layer those whose input comes from it, or that its input comes from, without another between."""
    makers = {str(tensor.name): node for node in trials.model.graph.nodes for tensor in node.outputs}
    names = {layer.name for layer in trials.layers}
    found: dict[str, list[str]] = {name: [] for name in names}
    for layer in trials.layers:
        front, seen = [layer.input], set()
        while front:
            node = makers.get(front.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.name in names:
                found[layer.name].append(node.name)
                found[node.name].append(layer.name)
            else:
                front += [str(tensor.name) for tensor in node.inputs]
    return found
