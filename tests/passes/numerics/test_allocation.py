"""Exact allocation, compared with all combinations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from passes.numerics.allocation import NoAllocation, allocate

Doubles = NDArray[np.float64]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Doubles, Doubles, float]:
    """Draw noise and bytes of up to five layers, and a limit of bytes. Noise falls with the bits, and bytes rise."""
    items, choices = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    noise = np.sort(random.lognormal(-4, 2, (items, choices)), axis=1)[:, ::-1].copy()
    size = np.sort(random.integers(1, 5000, (items, choices)), axis=1).astype(float)
    least, most = size.min(axis=1).sum(), size.max(axis=1).sum()
    return noise, size, float(least + draw(st.floats(0, 1)) * (most - least))


def brute_force(objective: Doubles, limited: Doubles, limit: float) -> float:
    """Return the least objective of all combinations within the limit."""
    items, choices = objective.shape
    rows = np.arange(items)
    totals = []
    for combination in itertools.product(range(choices), repeat=items):
        chosen = np.array(combination)
        if limited[rows, chosen].sum() <= limit:
            totals.append(objective[rows, chosen].sum())
    return float(min(totals))


@settings(max_examples=200)
@given(problem=problems(), flipped=st.booleans())
def test_no_combination_is_better(problem: tuple[Doubles, Doubles, float], flipped: bool) -> None:
    objective, limited, limit = problem
    if flipped:  # fewest bytes within a limit of noise
        objective, limited = limited, objective
        limit = float(limited.min(axis=1).sum() * 1.5)
    chosen = allocate(objective, limited, limit)
    rows = np.arange(len(objective))
    assert limited[rows, chosen].sum() <= limit * (1 + 1e-12)  # sums in another order
    best = brute_force(objective, limited, limit)
    assert objective[rows, chosen].sum() <= best * (1 + 1e-12)


def test_a_forbidden_choice_is_not_taken() -> None:
    noise, size = np.array([[1.0, 0.1, 0.0]]), np.array([[1.0, 2.0, 3.0]])
    assert allocate(noise, size, 3.0).tolist() == [2]
    assert allocate(noise, np.where(size == 3, np.inf, size), 3.0).tolist() == [1]
    assert allocate(np.where(noise == 0, np.inf, noise), size, 3.0).tolist() == [1]


def test_a_limit_that_nothing_fits_is_refused() -> None:
    with pytest.raises(NoAllocation, match="the smallest total is 2, the limit 1"):
        allocate(np.ones((2, 1)), np.ones((2, 1)), 1.0)


def test_hundreds_of_layers_are_fast() -> None:
    random = np.random.default_rng(0)
    noise = random.lognormal(0, 1, (300, 1)) * 4.0 ** -np.array([2, 3, 4, 8])
    size = random.integers(100, 100_000, (300, 1)) * np.array([2, 3, 4, 8]) / 8
    limit = float(size[:, 1].sum())
    chosen = allocate(noise, size, limit)
    rows = np.arange(300)
    assert 0.999 * limit < size[rows, chosen].sum() <= limit
    assert noise[rows, chosen].sum() < 0.9 * noise[:, 1].sum()  # mixed bits are better than 3 bits everywhere
