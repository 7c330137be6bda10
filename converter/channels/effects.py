"""Effects of groups of channels: each group alone loses more and more channels, and the network's error is measured.

A group's channels go in the order of Optimal Brain Surgeon, and the layers that read them make up for them on the
float network's inputs (`passes.channels.removal`). Only these layers are then put into the float network, whose outputs
are compared on held-out samples. It is like the database of pruned solutions in Optimal Brain Compression (Frantar &
Alistarh 2022, arXiv 2208.11580, §6), with errors of the network instead of the layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from converter.calibration.probe import Probe
from converter.calibration.statistics import calibrate
from converter.data.dataset import Dataset
from converter.runtime.session import Progress
from passes.channels.channel_groups import ChannelGroup, channel_groups
from passes.channels.prune_channels import PruneChannels
from passes.channels.removal import GroupReaders
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.moments import Moments
from passes.statistics import Needs

__all__ = ["GroupEffect", "measure_group_effects", "tried_numbers"]

_LOST = 1.0  # relative error power at which nothing is left of the outputs; fewer channels are not tried
_EIGHTHS = 8  # each group is tried without 1/8, 2/8, ... of its channels


@dataclass(frozen=True)
class GroupEffect:
    """What it costs a network if a group of channels becomes smaller.

    Attributes:
        name: Name of the group: of the first layer that writes it.
        size: Number of channels.
        kept: Numbers of channels that were tried, falling. The first is `size`.
        errors: Error power of the network's worst output relative to its signal power, for each number.
    """

    name: str
    size: int
    kept: tuple[int, ...]
    errors: tuple[float, ...]


def measure_group_effects(
    model: Model,
    step: PruneChannels,
    fit: Dataset,
    held_out: Dataset,
    progress: Progress,
    *,
    seed: int,
    memory_budget: int,
) -> Iterator[GroupEffect]:
    """Yield the effect of every group. The model is unchanged afterwards.

    Args:
        model: The float model before the pass.
        step: The pass. Its settings decide which numbers of channels are tried.
        fit: Samples that give the moments of the layers' inputs.
        held_out: Other samples, on which the error of the network's outputs is measured.
        progress: Called after every group.
        seed: Random seed of the output positions that are sampled from each image.
        memory_budget: Bytes of activations in memory, and bytes of moments. Where the moments of all layers do not fit,
            the samples run once for each part of the groups.

    Raises:
        DataError: An activation is NaN or Inf. The message names the tensor.
    """
    groups = [group for group in channel_groups(model).groups if len(tried_numbers(step, group)) > 1]
    probe, done = Probe(model, held_out), 0
    for some in _fitting(model, groups, memory_budget):
        needs = Needs(moments=frozenset(name for group in some for name in group.readers))
        stats = calibrate(model, needs, fit, progress, seed=seed, memory_budget=memory_budget)
        for group in some:
            effect = _effect(model, step, group, stats.moments, probe)
            done += 1
            yield effect
            progress("effects of channels", done, len(groups))
        del stats  # before the next ones are measured


def _effect(
    model: Model, step: PruneChannels, group: ChannelGroup, moments: Mapping[str, Moments], probe: Probe
) -> GroupEffect:
    numbers = tried_numbers(step, group)
    readers = GroupReaders(model, group, moments, step.damping)
    order, errors = readers.order(group.size - numbers[-1], step.fewest), [0.0]
    for kept in numbers[1:]:
        if len(order) < group.size - kept:  # not so many can go
            break
        readers.write(order[: group.size - kept], make_up=step.make_up)
        errors.append(probe.error(model))
        if errors[-1] > _LOST:
            break
    readers.restore()
    return GroupEffect(group.name, group.size, numbers[: len(errors)], tuple(errors))


def _fitting(model: Model, groups: Sequence[ChannelGroup], most_bytes: int) -> Iterator[list[ChannelGroup]]:
    """Yield groups, in their order, whose readers' moments fit into memory together. One group alone always runs."""
    layers, some, names = model.layers(), list[ChannelGroup](), set[str]()
    for group in groups:
        wanted = names | set(group.readers)
        if some and sum(_moment_bytes(layers[name]) for name in wanted) > most_bytes:
            yield some
            some, wanted = [], set(group.readers)
        some.append(group)
        names = wanted
    if some:
        yield some


def _moment_bytes(layer: Linear) -> int:
    """Bytes of a layer's moments, and of the sums that they are computed from."""
    groups, _, k = layer.matrix_shape
    return 2 * 4 * groups * k * k


def tried_numbers(step: PruneChannels, group: ChannelGroup) -> tuple[int, ...]:
    """Return the numbers of channels that are tried, falling, from all of them. One number: none can go."""
    return tuple(sorted({step.kept(group, each / _EIGHTHS) for each in range(_EIGHTHS)}, reverse=True))
