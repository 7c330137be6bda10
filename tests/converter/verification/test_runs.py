"""How the outputs of two runtimes are compared."""

import numpy as np
import pytest

from converter.data.dataset import Batch
from converter.verification.runs import class_agreement


@pytest.mark.parametrize(("samples", "agreement"), [(4, 0.75), (1, None)])
def test_the_cells_of_a_detector_are_no_samples(samples: int, agreement: float | None) -> None:
    """Four rows of scores are four samples, or the cells of one."""
    scores = np.eye(4, dtype=np.float32)
    other = scores.copy()
    other[0] = scores[1]
    runs = [Batch({"x": np.zeros((samples, 3), np.float32)}, None)]
    assert class_agreement(runs, [{"y": scores}], [{"y": other}]) == agreement
