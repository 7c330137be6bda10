"""Channel pruning: whole channels go, and the graph becomes smaller and faster.

A group of channels (`passes.channels.channel_groups`) loses those whose removal costs the layers that read them least.
These layers make up for them (`passes.numerics.channel_removal`): weights that are left take over what is correlated
with the removed inputs, and the bias their mean. The runner then lets every layer make up for the errors of the layers
before it too (`converter.calibration.make_up`), and `shrink` takes the channels out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from passes.base import GraphPass
from passes.channels.channel_groups import ChannelGroup, ChannelGroups, channel_groups
from passes.channels.removal import GroupReaders, ReaderError, removed_inputs
from passes.channels.shrink import shrink
from passes.errors import QuantizationError
from passes.ir.layer_names import require_known
from passes.ir.model import Model
from passes.numerics.error import decibel
from passes.report import Change, PassReport, TakenChannels
from passes.scale_migration.scale_ties import Indices
from passes.statistics import Needs, Stats

__all__ = ["Cost", "PruneChannels", "Removal"]

Cost = Literal["channels", "macs", "latency", "auto"]
_COSTS = ("channels", "macs", "latency", "auto")


@dataclass(frozen=True)
class Removal:
    """Channels that go, of every group.

    Attributes:
        groups: All groups of the graph.
        chosen: Channels that go, by the name of their group.
        errors: Errors of the layers that read them, by layer name.
    """

    groups: ChannelGroups
    chosen: Mapping[str, Indices]
    errors: Mapping[str, ReaderError]

    def inputs(self, model: Model) -> dict[str, NDArray[np.bool_]]:
        """Return the inputs ``[g, k]`` that each layer loses, by layer name, while the shapes are as before."""
        layers = model.layers()
        return {
            name: removed_inputs(layers[name], group, self.chosen[group.name])
            for group in self.groups.groups
            if len(self.chosen.get(group.name, ()))
            for name in group.readers
        }


@dataclass(frozen=True)
class PruneChannels(GraphPass):
    """Channel pruning. It runs after `fold_batchnorm` and before `integer_forms`.

    Attributes:
        share: Share of `of` that goes, 0 to below 1.
        of: What `share` is a share of. "channels": of the channels of each group. "macs" or "latency": of the network's
            products, or of its time on this machine's CPU. "auto" is "latency" where the target's kernels are this
            machine's. A conversion then chooses the share of each group, by the measured error of the network's output,
            and stores it as `group_shares`.
        group_shares: Shares of channels by group, instead of `share`. A group has the name of a layer that writes its
            channels. Other groups keep all channels.
        multiple: The number of channels that stay is a multiple of this, as integer kernels work on several at once.
        fewest: Least number of channels of a group that stay, rounded up to a multiple.
        damping: λ as a share of the mean of diag H.
        make_up: Whether the weights that are left make up for the channels that go. If not, these just go.
        sequential: Whether every layer makes up for the errors of the layers before it too.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "prune_channels"

    share: float = 0.5
    of: Cost = "channels"
    group_shares: Mapping[str, float] = field(default_factory=dict)
    multiple: int = 8
    fewest: int = 8
    damping: float = 0.01
    make_up: bool = True
    sequential: bool = True

    def __post_init__(self) -> None:
        if self.of not in _COSTS:
            raise ValueError(f"of must be one of {', '.join(_COSTS)}, not {self.of!r}")
        for what, share in (
            ("share", self.share),
            *((f"group_shares of {k}", v) for k, v in self.group_shares.items()),
        ):
            if not 0 <= share < 1:
                raise ValueError(f"{what} must be at least 0 and below 1, not {share:g}")
        for what in ("multiple", "fewest"):
            if getattr(self, what) < 1:
                raise ValueError(f"{what} must be at least 1, not {getattr(self, what)}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be above 0 and at most 1, not {self.damping:g}")

    @property
    def needs_data(self) -> bool:
        """Always true: what a channel is worth follows from its values."""
        return True

    @property
    def chooses(self) -> bool:
        """Whether the share of each group still has to be chosen by measurements."""
        return self.of != "channels" and not self.group_shares and self.share > 0

    def requires(self, model: Model) -> None:
        """Require that every group in `group_shares` exists.

        Raises:
            UnknownLayerError: No layer has the name of a group.
            QuantizationError: The channels of the layer have to stay.
        """
        groups = channel_groups(model)
        known = groups.by_name()
        for name in self.group_shares:
            if name in known:
                continue
            if name in groups.outputs:
                raise QuantizationError(f"group_shares: the channels of {name} have to stay: {groups.outputs[name]}")
            require_known([name], known, "group_shares")

    def needs(self, model: Model) -> Needs:
        """Request moments of the layers that read channels which may go."""
        groups = channel_groups(model)
        names = {name for group in groups.groups if self._removes(group) for name in group.readers}
        return Needs(moments=frozenset(names))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Remove channels, without making up for the errors of earlier layers.

        Raises:
            QuantizationError: There are no statistics.
        """
        removal = self.choose(model, stats)
        return self.shrink(model, removal)

    def choose(self, model: Model, stats: Stats) -> Removal:
        """Choose channels and give the layers that read them their new weights. The shapes stay as they are.

        Raises:
            QuantizationError: There are no statistics, the shares are not chosen yet, or channels are scaled already.
        """
        if model.activation_qparams:
            raise QuantizationError(
                "channels cannot go after activation grids are set; put prune_channels before activation_ranges"
            )
        if self.chooses:
            raise QuantizationError(f"the shares of {self.of} by group are not chosen; use `convert`, or group_shares")
        groups = channel_groups(model)
        readers = [
            GroupReaders(model, group, stats.moments, self.damping) for group in groups.groups if self._removes(group)
        ]
        chosen = {each.group.name: each.order(self.count(each.group), self.fewest) for each in readers}
        return self.write(model, groups, readers, chosen)

    def write(
        self, model: Model, groups: ChannelGroups, readers: list[GroupReaders], chosen: Mapping[str, Indices]
    ) -> Removal:
        """Give the layers that read the chosen channels their new weights."""
        errors: dict[str, ReaderError] = {}
        for each in readers:
            if len(chosen[each.group.name]):
                errors |= each.write(chosen[each.group.name], make_up=self.make_up)
        return Removal(groups, chosen, errors)

    def shrink(self, model: Model, removal: Removal) -> PassReport:
        """Take the chosen channels out of the graph, and report on every layer."""
        before = model.layers()
        by_name = {group.name: group for group in removal.groups.groups}
        shrink(model, [(by_name[name], chosen) for name, chosen in removal.chosen.items()])
        after = model.layers()
        changed: dict[str, Change] = {}
        skipped: dict[str, str] = {}
        for name, layer in before.items():
            parts = [
                f"{side} {getattr(layer, side)} to {getattr(after[name], side)} channels"
                for side in ("inputs", "outputs")
                if getattr(layer, side) != getattr(after[name], side)
            ]
            if parts:
                error = removal.errors.get(name)
                levels = () if error is None else (decibel(1.0, error.zeroed), decibel(1.0, error.left))
                changed[name] = Change(", ".join(parts), *levels)
            else:
                skipped[name] = self._why_whole(removal.groups, name)
        groups = {
            group.name: (group.size, group.size - len(removal.chosen[group.name]))
            for group in removal.groups.groups
            if len(removal.chosen.get(group.name, ()))
        }
        every = sum(group.size for group in removal.groups.groups)
        channels = (every, every - sum(one - other for one, other in groups.values()))
        weights = [sum(int(np.prod(each.weight_shape)) for each in layers.values()) for layers in (before, after)]
        taken = TakenChannels(groups, channels, (weights[0], weights[1]))
        notes = (
            taken.describe(),
            *(f"{name}: {one} to {other} channels" for name, (one, other) in groups.items()),
        )
        return PassReport(self.name, changed, skipped, notes, taken=taken)

    def apply_without_data(self, model: Model) -> None:
        """Remove as many channels as the pass would, whichever they are."""
        groups = channel_groups(model)
        shrink(
            model,
            [
                (group, group.removable(np.arange(group.size)[::-1], self.fewest)[: self.count(group)])
                for group in groups.groups
                if self._removes(group)
            ],
        )

    def kept(self, group: ChannelGroup, share: float) -> int:
        """Return how many channels of a group stay if a share of them goes."""
        wanted = self.multiple * round(group.size * (1 - share) / self.multiple)
        fewest = self.multiple * -(-self.fewest // self.multiple)
        return min(group.size, max(fewest, wanted))

    def count(self, group: ChannelGroup) -> int:
        """Return how many channels of a group go."""
        return group.size - self.kept(group, self._share_of(group))

    def _share_of(self, group: ChannelGroup) -> float:
        if self.group_shares:
            return max((self.group_shares[name] for name in group.producers if name in self.group_shares), default=0.0)
        return self.share

    def _removes(self, group: ChannelGroup) -> bool:
        return self.count(group) > 0

    def _why_whole(self, groups: ChannelGroups, name: str) -> str:
        """Return why a layer keeps all channels."""
        by_name = groups.by_name()
        if name in by_name or any(name in group.consumers for group in groups.groups):
            return "no channel beside it goes"
        outputs, inputs = groups.outputs.get(name, ""), groups.inputs.get(name, "")
        return outputs or inputs or "no channel beside it goes"
