"""Networks of large layers, and the bars of their benchmarks, on small sizes."""

import dataclasses

import numpy as np
import pytest

from benchmarks import large_layers
from benchmarks.conversion_cost import Cost
from converter.runtime.session import no_progress
from tests.support.networks import run


def test_a_chain_keeps_the_size_of_its_signal() -> None:
    model = large_layers.chain((64, 256) * 4 + (64,))
    x = np.random.default_rng(3).standard_normal((50, 64), dtype=np.float32)
    result = run(model, x)[0]
    assert result.shape == (50, 64)
    assert 0.2 < np.square(result).mean() < 2


def test_int8_sums_are_compared_with_float_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_layers, "_WIDTHS", (32, 64))
    monkeypatch.setattr(large_layers, "speedups", lambda files, _: dict(zip(files, (1.0, 1.9), strict=True)))
    *faster, lost = large_layers.matmul_nbits(no_progress)
    assert [(bar.measured, bar.holds) for bar in faster] == [(1.9, True)] * 2
    assert lost.holds
    assert lost.measured != 0  # the two files do not compute the same


@pytest.mark.parametrize(("peak", "holds"), [(5.8, True), (6.0, False)])
def test_the_bar_of_a_large_model(monkeypatch: pytest.MonkeyPatch, peak: float, holds: bool) -> None:
    small = large_layers.chain([8, 8])
    monkeypatch.setattr(large_layers, "chain", lambda _: small)
    cost = Cost(1.0, {}, 0)
    monkeypatch.setattr(
        large_layers, "conversion_cost", lambda *_: dataclasses.replace(cost, peak_bytes=int(peak * 1e9))
    )
    (bar,) = large_layers.large_model(no_progress)
    assert bar.holds is holds
