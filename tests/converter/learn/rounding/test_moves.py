"""Curvature and code moves of a layer whose loss is quadratic in its weight, so that both are known exactly."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converter.learn.rounding.fake_quantize import LearnedWeight  # noqa: E402
from converter.learn.rounding.moves import CodeMoves, curvature  # noqa: E402
from passes.ir.linear import Linear  # noqa: E402
from passes.numerics.grid import Grid  # noqa: E402
from tests.support.networks import prepared, random, single  # noqa: E402

POWER = {"y": torch.tensor(2.0)}


def layer() -> Linear:
    return next(iter(prepared(single("gemm")).layers().values()))  # [1, 10, 24]


def learned(codes: np.ndarray, bits: int = 4) -> LearnedWeight:
    scale = np.full((1, 10, 1), 0.5, np.float32)
    grid = Grid(bits, scale, np.zeros_like(scale, dtype=np.int8))
    return LearnedWeight(layer(), codes.astype(np.int8), grid, None, np.ones((1, 10), np.float32), None)


def test_curvature_is_that_of_the_squared_error() -> None:
    weight = learned(np.zeros((1, 10, 24)))
    x = torch.from_numpy(random(4000, 24)) * torch.linspace(0.2, 2, 24)
    draws = torch.Generator().manual_seed(0)
    outputs = ({"y": x[start : start + 400] @ weight()[0]} for start in range(0, 4000, 400))
    (actual,) = curvature([weight], outputs, POWER, draws)
    expected_curvature = 2 / (10 * 2.0) * 0.25 * x.square().mean(0).expand(10, 24)
    # ten draws of a square each, smoothed over ten rows: 2 % of 100 χ² is 14 %
    torch.testing.assert_close(actual[0].mean(0), expected_curvature.mean(0), rtol=0.6, atol=0)
    assert abs(float(actual.mean() / expected_curvature.mean()) - 1) < 0.2


def test_curvature_follows_the_steps_of_blocks() -> None:
    """A code's step is a multiple of its channel's scale. Its curvature grows with the square of that multiple."""
    scale = np.full((1, 10, 1), 0.5, np.float32)
    multiples = np.array([[[1, -8, 3]] * 5 + [[7, 2, -1]] * 5], np.int8)
    grid = Grid(4, scale, np.zeros_like(scale, dtype=np.int8), 8, multiples)
    codes = np.zeros((1, 10, 24), np.int8)
    weight = LearnedWeight(layer(), codes, grid, None, np.ones((1, 10), np.float32), None)
    x = torch.from_numpy(random(4000, 24))
    draws = torch.Generator().manual_seed(0)
    outputs = ({"y": x[start : start + 400] @ weight()[0]} for start in range(0, 4000, 400))
    (actual,) = curvature([weight], outputs, POWER, draws)
    flat = actual / torch.from_numpy(grid.multiple(24).astype(np.float32)).square()
    assert float(flat.max() / flat.min()) < 8  # 64 between multiples of 1 and of 8


def test_only_moves_that_pay_are_made_and_one_a_row() -> None:
    weight = learned(np.zeros((1, 10, 24)))
    bend = [torch.ones(1, 10, 24)]
    moves = CodeMoves([weight], bend, share=1.0, certainty=0.0, batch_share=0.1)
    slope = torch.zeros(1, 10, 24)
    slope[0, 0, 3], slope[0, 0, 5] = -0.9, -0.8  # both pay, the first more
    slope[0, 1, 2] = 0.7
    slope[0, 2, 2] = 0.4  # less than half the curvature
    for _ in range(4):
        weight.nudge.grad = slope.clone()
        moves.step(True)
    expected = torch.zeros(1, 10, 24)
    expected[0, 0, 3], expected[0, 1, 2] = 1, -1
    assert torch.equal(weight.codes, expected)


def test_codes_stay_on_their_grid_and_move_only_when_told() -> None:
    weight = learned(np.full((1, 10, 24), 7))
    moves = CodeMoves([weight], [torch.ones(1, 10, 24)], share=1.0, certainty=0.0, batch_share=0.1)
    for move in (True, True, True, True, True, False):
        weight.nudge.grad = torch.full((1, 10, 24), -9.0 if move else 9.0)
        moves.step(move)
    assert torch.equal(weight.codes, torch.full((1, 10, 24), 7.0))


def test_an_uncertain_gradient_moves_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    moved = []
    for certainty in (0.0, 8.0):
        weight = learned(np.zeros((1, 10, 24)))
        moves = CodeMoves([weight], [torch.full((1, 10, 24), 0.1)], share=1.0, certainty=certainty, batch_share=0.1)
        for _ in range(20):
            weight.nudge.grad = torch.randn(1, 10, 24, generator=draws)
            moves.step(True)
        moved.append(int((weight.codes != 0).sum()))
    assert moved[0] > 20
    assert moved[1] == 0


def test_moves_respect_the_share_of_rows() -> None:
    weight = learned(np.zeros((1, 10, 24)))
    moves = CodeMoves([weight], [torch.ones(1, 10, 24)], share=0.2, certainty=0.0, batch_share=0.1)
    slope = torch.zeros(1, 10, 24)
    slope[0, :, 0] = torch.linspace(1, 2, 10)
    for _ in range(4):
        weight.nudge.grad = slope.clone()
        moves.step(True)
    assert torch.nonzero(weight.codes[0, :, 0]).flatten().tolist() == [8, 9]
