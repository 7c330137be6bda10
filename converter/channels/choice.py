"""The choice of how many channels each group keeps, from measured effects and costs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from converter.channels.effects import GroupEffect
from passes.channels.prune_channels import PruneChannels
from passes.errors import UsageError
from passes.numerics.channel_allocation import LayerCosts, NoShares, allocate_channels

__all__ = ["ChannelChoices", "require_possible"]


def require_possible(share: float, costs: LayerCosts, fewest: Sequence[float], of: str) -> None:
    """Require that a share of the cost can go, before it is measured what that does to the outputs.

    Args:
        share: Share of the cost.
        costs: What the layers cost.
        fewest: Smallest share of its channels that each group may keep.
        of: What the costs are, for the message.

    Raises:
        UsageError: So much cannot go. The message says how much can.
    """
    left = float(costs.total(np.array(fewest)) / costs.total(np.ones(len(fewest))))
    if left > 1 - share:
        raise _too_much(share, left, of)


def _too_much(share: float, left: float, of: str) -> UsageError:
    most = np.floor(100 * (1 - left)) / 100
    advice = f"use at most {most:g}" if most > 0 else "leave `prune_channels=` out"
    return UsageError(f"prune_channels: share {share:g} of {of} cannot go, as layers have a part that stays; {advice}")


@dataclass(frozen=True)
class ChannelChoices:
    """Measured effects and costs of a network, from which the choice for any share follows.

    Attributes:
        effects: Effects of the groups, in the order to which `costs` refer.
        costs: What the layers cost.
        of: What the costs are: "macs" or "latency".
    """

    effects: tuple[GroupEffect, ...]
    costs: LayerCosts
    of: str

    def shares(self, share: float) -> dict[str, float]:
        """Return the share of its channels that each group loses, if the network loses ``share`` of its cost.

        Groups that keep all channels are left out.

        Raises:
            UsageError: So much cannot go. The message says how much can.
        """
        kept = [np.array(each.kept) / each.size for each in self.effects]
        whole = self.costs.total(np.ones(len(kept)))
        errors = [np.array(each.errors) for each in self.effects]
        try:
            chosen = allocate_channels(kept, errors, self.costs, (1 - share) * whole)
        except NoShares as least:
            raise _too_much(share, float(least.args[0]) / whole, self.of) from None
        return {
            each.name: round(1 - each.kept[choice] / each.size, 6)
            for each, choice in zip(self.effects, chosen, strict=True)
            if choice
        }

    def step(self, step: PruneChannels, share: float) -> PruneChannels:
        """Return the pass with the chosen shares of its groups."""
        shares = self.shares(share) if share else {}
        return replace(step, share=share if shares else 0.0, group_shares=shares)

    def error(self, shares: Mapping[str, float]) -> float:
        """Return the expected error power of the network's worst output, relative to its signal power."""
        total = 0.0
        for each in self.effects:
            kept = round(each.size * (1 - shares.get(each.name, 0.0)))
            total += each.errors[each.kept.index(kept)]
        return total

    def to_json(self) -> str:
        """Return everything as JSON."""
        costs = {name: value.tolist() for name, value in asdict(self.costs).items()}
        return json.dumps({"effects": [asdict(each) for each in self.effects], "costs": costs, "of": self.of})

    @classmethod
    def from_json(cls, text: str) -> "ChannelChoices":
        """Read what `to_json` returned."""
        values: dict[str, Any] = json.loads(text)
        effects = tuple(
            GroupEffect(each["name"], each["size"], tuple(each["kept"]), tuple(each["errors"]))
            for each in values["effects"]
        )
        costs = LayerCosts(**{name: np.array(each) for name, each in values["costs"].items()})
        return cls(effects, costs, values["of"])
