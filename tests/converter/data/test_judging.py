"""Samples that judge are no samples that calibrate."""

import numpy as np
import pytest

from converter.budget.held_out_judge import JUDGING as OF_BUDGETS
from converter.data.dataset import load_data
from converter.data.inputs import InputSpec
from converter.data.judging import Judging
from converter.pipeline.prepare import JUDGING

INPUTS = [InputSpec("x", (None, 4), np.dtype(np.float32))]


@pytest.mark.parametrize(
    ("judging", "count", "limit", "calibrating", "judges"),
    [
        (OF_BUDGETS, 64, 16, 16, 48),
        (OF_BUDGETS, 64, 64, 48, 16),
        (OF_BUDGETS, 64, 1000, 48, 16),
        (OF_BUDGETS, 2, 1000, 1, 1),
        (OF_BUDGETS, 1, 1000, 1, 0),
        (JUDGING, 1000, 512, 512, 8),
        (JUDGING, 515, 512, 507, 8),
        (JUDGING, 128, 512, 120, 8),
        (JUDGING, 64, 512, 60, 4),
        (JUDGING, 63, 512, 63, 0),
        (JUDGING, 15, 8, 8, 7),
        (Judging(8, 2, 16), 16, 512, 8, 8),
        (Judging(8, 2, 16), 15, 512, 15, 0),
    ],
)
def test_samples_beyond_the_limit_come_first(
    judging: Judging, count: int, limit: int, calibrating: int, judges: int
) -> None:
    x = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    fit, judge = judging.split(load_data(x, INPUTS), limit, 0)
    assert len(fit) == calibrating
    assert (0 if judge is None else len(judge)) == judges
    if judge is not None:
        rows = [{float(batch.feeds["x"][0, 0]) for batch in part.batches(1)} for part in (fit, judge)]
        assert not rows[0] & rows[1]
