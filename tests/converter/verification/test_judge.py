"""Judgement of a runtime's outputs beside the CPU's and the float model's."""

import numpy as np
import pytest

from converter.data.dataset import Batch
from converter.verification.judge import Judgement, judge
from converter.verification.runs import Outputs

RUNS = [Batch({"x": np.zeros((1, 3), np.float32)}, None) for _ in range(4)]


def judged(actual: list[Outputs], cpu: list[Outputs], floats: list[Outputs]) -> Judgement:
    return judge(RUNS, actual, cpu, floats, joined=(), min_agreement=0.0, has_classes=False)


def boxes(*counts: int, worse: float = 0.0, seed: int = 0) -> list[Outputs]:
    """Lists of so many boxes, one a run, whose coordinates are off by some share."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(1, 2, (32, 4))
    noise = rng.normal(size=(32, 4)) * worse
    return [{"boxes": (corners * (1 + noise))[:count].astype(np.float32)} for count in counts]


def test_lists_that_are_never_as_long_as_the_float_models_are_compared_with_the_cpu() -> None:
    found = judged(boxes(5, 6, 7, 8, worse=0.01), boxes(5, 6, 7, 8), boxes(4, 5, 6, 7))
    assert not found.failures
    assert (found.float_db, found.cpu_float_db, found.outputs) == (None, None, {})
    (note,) = found.notes
    assert note.startswith("output boxes has another size than the float model's in every run; against the CPU: ")


def test_lists_that_have_nothing_in_common_with_the_cpus_fail() -> None:
    found = judged(boxes(5, 6, 7, 8, worse=5.0), boxes(5, 6, 7, 8), boxes(4, 5, 6, 7))
    (failure,) = found.failures
    assert failure.startswith("output boxes has another size than the float model's in every run")
    assert not found.notes


@pytest.mark.parametrize(("worse", "fails"), [(0.02, False), (0.5, True)])
def test_only_runs_in_which_all_three_have_the_same_size_are_compared(worse: float, fails: bool) -> None:
    """The first run matches the float model on the CPU only, the second on the runtime only, the others on both."""
    floats, cpu = boxes(5, 5, 6, 6), boxes(5, 4, 6, 6, worse=0.02, seed=0)
    actual = boxes(4, 5, 6, 6, worse=worse, seed=0)
    found = judged(actual, cpu, floats)
    assert bool(found.failures) == fails
    assert not found.notes
    assert found.float_db is not None
    assert found.cpu_float_db == pytest.approx(20 * np.log10(1 / 0.02), abs=3)
