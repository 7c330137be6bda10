"""The choice of channels from measured effects and costs."""

import numpy as np
import pytest

from converter.channels.choice import ChannelChoices, require_possible
from converter.channels.effects import GroupEffect
from passes.channels.prune_channels import PruneChannels
from passes.errors import UsageError
from passes.numerics.channel_allocation import LayerCosts

CHOICES = ChannelChoices(
    (
        GroupEffect("cheap", 32, (32, 24, 16, 8), (0.0, 0.001, 0.002, 0.004)),
        GroupEffect("dear", 32, (32, 24, 16), (0.0, 0.1, 0.9)),
    ),
    LayerCosts(np.array([1.0, 0, 0]), np.array([1.0, 4, 4]), np.array([-1, 0, 1]), np.array([0, 1, -1])),
    "macs",
)


def test_the_cheap_group_shrinks_first() -> None:
    assert CHOICES.shares(0.25) == {"cheap": 0.5}
    shares = CHOICES.shares(0.5)
    assert shares["cheap"] == 0.75
    assert shares["dear"] == 0.25


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_cost_is_met(share: float) -> None:
    shares = CHOICES.shares(share)
    kept = np.array([1 - shares.get(each.name, 0.0) for each in CHOICES.effects])
    assert CHOICES.costs.total(kept) <= (1 - share) * CHOICES.costs.total(np.ones(2))


def test_the_pass_gets_the_shares_and_keeps_the_same_numbers_of_channels() -> None:
    step = CHOICES.step(PruneChannels(of="macs"), 0.5)
    assert step.group_shares == CHOICES.shares(0.5)
    assert not step.chooses
    nothing = CHOICES.step(PruneChannels(of="macs"), 0.0)
    assert nothing.share == 0
    assert not nothing.chooses


def test_errors_add_up() -> None:
    assert CHOICES.error({"cheap": 0.5, "dear": 0.25}) == pytest.approx(0.102)
    assert CHOICES.error({}) == 0


def test_what_cannot_go_is_refused_with_what_can() -> None:
    with pytest.raises(UsageError, match=r"share 0.9 of macs cannot go, .*; use at most 0.6"):
        CHOICES.shares(0.9)


def test_nothing_can_go_where_no_group_may_shrink() -> None:
    with pytest.raises(UsageError, match=r"share 0.1 of macs cannot go, .*; leave `prune_channels=` out"):
        require_possible(0.1, CHOICES.costs, [1.0, 1.0], "macs")
    require_possible(0.1, CHOICES.costs, [0.25, 0.5], "macs")


def test_json_has_everything() -> None:
    again = ChannelChoices.from_json(CHOICES.to_json())
    assert again.effects == CHOICES.effects
    assert again.of == CHOICES.of
    assert again.shares(0.5) == CHOICES.shares(0.5)
