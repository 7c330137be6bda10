"""How the outputs of two runtimes are compared."""

import numpy as np
import pytest

from converter.data.dataset import Batch
from converter.verification.runs import class_agreement, loss_error_db


@pytest.mark.parametrize(("samples", "agreement"), [(4, 0.75), (1, None)])
def test_the_cells_of_a_detector_are_no_samples(samples: int, agreement: float | None) -> None:
    """Four rows of scores are four samples, or the cells of one."""
    scores = np.eye(4, dtype=np.float32)
    other = scores.copy()
    other[0] = scores[1]
    runs = [Batch({"x": np.zeros((samples, 3), np.float32)}, None)]
    assert class_agreement(runs, [{"y": scores}], [{"y": other}]) == agreement


def test_the_scatter_of_a_loss() -> None:
    """One run of four with a large error: the loss is as uncertain as it is large. In alike runs it is certain."""
    floats = [{"y": np.zeros((1, 4), np.float32)} for _ in range(4)]
    usual = [{"y": np.full((1, 4), 0.1, np.float32)} for _ in range(4)]
    alike = [{"y": np.full((1, 4), 0.2, np.float32)} for _ in range(4)]
    one = [{"y": np.full((1, 4), 0.35 if run == 2 else 0.1, np.float32)} for run in range(4)]
    assert loss_error_db("y", floats, alike, usual) < 1e-6
    assert loss_error_db("y", floats, one, usual) > 3
    assert loss_error_db("y", floats[:2], one[:2], usual[:2]) == 0
