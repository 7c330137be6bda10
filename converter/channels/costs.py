"""What layers cost, as a function of the channels of the groups around them: products, or time on this machine.

Time: files with fewer channels are made without calibration (`converter.speed.trial`) and profiled on one thread. The
time of each node is fitted by a part that stays and a part that grows with its channels. So a layer that does not get
faster with fewer channels is not made smaller for its time.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch
from converter.qdq.floats import float_model
from converter.recipes.recipe import Recipe
from converter.runtime.runner import Runner
from converter.runtime.session import Progress, open_session
from converter.speed.profile import node_seconds_in_turns
from converter.speed.trial import Trials
from converter.targets.target import Target
from passes.channels.channel_groups import ChannelGroups
from passes.channels.prune_channels import PruneChannels
from passes.ir.model import Model
from passes.numerics.channel_allocation import LayerCosts

__all__ = ["layer_products", "products_of", "seconds_of"]

_UNIFORM = (0.0, 0.25, 0.5, 0.75)  # shares that all groups lose
_RANDOM = 4  # profiles in which each group loses a share of its own
_RUNS = 20  # of each file
_UNDISTURBED = 0.25  # quantile of the times that is taken; other work on the machine affects the larger times

Doubles = NDArray[np.float64]


def products_of(model: Model, groups: ChannelGroups, sample: Batch) -> LayerCosts:
    """Return the products of every layer for one sample.

    Args:
        model: The float model.
        groups: Its groups.
        sample: One sample, from which the number of output positions follows.
    """
    layers, macs = model.layers(), layer_products(model, sample)
    reads, writes = _groups_beside(model, groups)
    sides = [np.array([side[name] for name in layers], np.intp) for side in (reads, writes)]
    return LayerCosts(np.zeros(len(macs)), np.array([macs[name] for name in layers], np.float64), *sides)


def layer_products(model: Model, sample: Batch) -> dict[str, int]:
    """Return the products of every layer for one sample, by name.

    Args:
        model: The float model.
        sample: One sample, from which the number of output positions follows.
    """
    proto, layers = float_model(model.graph), model.layers()
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(layer.output) for layer in layers.values())
    outputs = open_session(proto).run(None, sample.feeds) if layers else []
    return {
        layer.name: math.prod(found.shape) * layer.matrix_shape[2] // sample.count
        for layer, found in zip(layers.values(), outputs, strict=True)
    }


def seconds_of(
    source: onnx.ModelProto,
    model: Model,
    groups: ChannelGroups,
    recipe: Recipe,
    target: Target,
    sample: Batch,
    progress: Progress,
) -> LayerCosts:
    """Return the seconds of every node of the file on this machine, for one sample on one thread.

    Args:
        source: The float model.
        model: The model before the pass that removes channels.
        groups: Its groups.
        recipe: Recipe of the file, with the pass that removes channels.
        target: Target of the file.
        sample: One sample.
        progress: Called after every file that is made.
    """
    step = next(each for each in recipe.passes if isinstance(each, PruneChannels))
    reads, writes = _groups_beside(model, groups)
    kept, trials = [], []
    every = list(_shares(len(groups.groups)))
    for done, shares in enumerate(every, start=1):
        wanted = {group.name: share for group, share in zip(groups.groups, shares.tolist(), strict=True)}
        kept.append(np.array([step.kept(group, wanted[group.name]) / group.size for group in groups.groups]))
        trials.append(Trials(source, _with_shares(recipe, step, wanted), target))
        progress("making files to time", done, len(every))
    files = [each.file(()) for each in trials]
    feeds = Runner(files[0], "a trial", threads=1, keep=False).inputs(sample.feeds)
    found = node_seconds_in_turns(files, feeds, _RUNS, _UNDISTURBED)
    profiles = [(shares, _by_layer(one, seconds)) for shares, one, seconds in zip(kept, trials, found, strict=True)]
    names = list(dict.fromkeys(name for _, seconds in profiles for name in seconds))
    sides = [np.array([side.get(name, -1) for name in names], np.intp) for side in (reads, writes)]
    fixed, moving = np.zeros(len(names)), np.zeros(len(names))
    for index, name in enumerate(names):
        shares = np.array([np.append(each, 1.0)[[side[index] for side in sides]].prod() for each, _ in profiles])
        seconds = np.array([times.get(name, 0.0) for _, times in profiles])
        fixed[index], moving[index] = _fitted(shares, seconds)
    return LayerCosts(fixed, moving, *sides)


def _shares(groups: int) -> Iterator[Doubles]:
    """Yield shares ``[g]`` that the groups lose in the profiles."""
    for share in _UNIFORM:
        yield np.full(groups, share)
    rng = np.random.default_rng(0)
    for _ in range(_RANDOM):
        yield rng.uniform(0, _UNIFORM[-1], groups)


def _with_shares(recipe: Recipe, step: PruneChannels, shares: Mapping[str, float]) -> Recipe:
    chosen = replace(step, group_shares=shares)
    return replace(recipe, passes=tuple(chosen if each is step else each for each in recipe.passes))


def _by_layer(trials: Trials, seconds: Mapping[str, float]) -> dict[str, float]:
    """Add the seconds of the nodes of a layer to those of the layer. Other nodes keep their names."""
    owner: dict[str, str] = {}
    for layer in trials.model.layers().values():
        for node in trials.nodes_of(layer):
            owner.setdefault(node, layer.name)
    total: dict[str, float] = {}
    for node, each in seconds.items():
        total[owner.get(node, node)] = total.get(owner.get(node, node), 0.0) + each
    return total


def _groups_beside(model: Model, groups: ChannelGroups) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of the group whose channels each node reads, and of the one whose channels it writes, or -1.

    Only layers that mix channels read a group: their products grow with both sides.
    """
    of_layer = {name: index for index, group in enumerate(groups.groups) for name in group.readers}
    of_tensor = {name: index for index, group in enumerate(groups.groups) for name in group.tensors}
    nodes = [node for node in model.graph.nodes if node.outputs]
    reads = {str(node.name): of_layer.get(str(node.name), -1) for node in nodes}
    writes = {str(node.name): of_tensor.get(str(node.outputs[0].name), -1) for node in nodes}
    return reads, writes


def _fitted(shares: Doubles, seconds: Doubles) -> tuple[float, float]:
    """Return the part that stays and the part that grows with the shares, by least squares. Neither is negative."""
    spread = shares - shares.mean()
    if not np.square(spread).sum() > 0:
        return float(seconds.mean()), 0.0
    moving = float((spread * seconds).sum() / np.square(spread).sum())
    fixed = float(seconds.mean() - moving * shares.mean())
    if moving < 0:
        return float(seconds.mean()), 0.0
    if fixed < 0:
        return 0.0, float((shares * seconds).sum() / np.square(shares).sum())
    return fixed, moving
