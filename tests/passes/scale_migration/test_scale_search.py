"""The search for scales: the loss is summed over all readers of a channel, and small gains are not taken."""

import numpy as np
import pytest

from passes.scale_migration.scale_search import best_of, over_channels


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        pytest.param([[1.0, 0.94, 0.9, 0.97]], 2, id="least"),
        pytest.param([[1.0, 0.96, 0.97, 1.2]], 0, id="below_five_percent"),
        pytest.param([[1.0, 0.2], [1.0, 1.9]], 0, id="one_reader_pays_for_the_other"),
        pytest.param([[1.0, 0.2], [1.0, 1.1]], 1, id="both_together"),
        pytest.param([[0.0, 0.0]], 0, id="nothing_to_gain"),
    ],
)
def test_a_candidate_must_save_five_percent_over_all_readers(losses: list[list[float]], best: int) -> None:
    assert best_of(np.array(losses), 0) == best
    assert best_of(np.array(losses)[:, ::-1], len(losses[0]) - 1) == len(losses[0]) - 1 - best


def test_a_scale_gets_the_largest_value_of_its_channels() -> None:
    members = {"a": np.array([0, 1, -1]), "b": np.array([2, 1]), "other": np.array([0])}
    values = {"a": np.array([1.0, 2.0, 9.0]), "b": np.array([3.0, 5.0])}
    assert over_channels(4, members, values).tolist() == [1, 5, 3, 0]
