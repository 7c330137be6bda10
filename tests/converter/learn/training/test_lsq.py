"""Grids whose scales are parameters. They compute what the file computes, with the gradients of the paper."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converter.learn.training.lsq import StepGrid, StepWeight  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.numerics.grid import ActivationGrid  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import LAYERS, quantize, random, single  # noqa: E402

GRID = ActivationGrid(np.float32(0.05), 17, False, -0.85, 11.9)


def step_weight(model: Model) -> StepWeight:
    (layer,) = model.layers().values()
    held = model.quantized[layer.name]
    actual = model.activation_qparams.get(layer.input)
    inputs = None if actual is None else StepGrid(actual, learned=True)
    return StepWeight(layer, held.codes, held.grid, model.bias(layer), 2.0, inputs)


@pytest.mark.parametrize("grid", [GRID, ActivationGrid(np.float32(0.1), 0, True, -12.8, 12.7)])
def test_activations_are_on_their_grid(grid: ActivationGrid) -> None:
    x = random(1000) * np.float32(8)
    actual = StepGrid(grid, learned=True)(torch.from_numpy(x))
    np.testing.assert_allclose(actual.detach().numpy(), grid.values(x), atol=1e-6)


def test_the_gradient_of_a_step_is_that_of_the_paper() -> None:
    """Equation 3: round(v) - v inside the range, the bound outside. Equation 5, of the values: 1 inside, 0 outside."""
    grid = StepGrid(GRID, learned=True)
    x = torch.tensor([[0.31, 0.34, -2.0, 99.0]], requires_grad=True)
    grid(x).sum().backward()
    v = np.array([0.31, 0.34]) / 0.05
    slope = (np.rint(v) - v).sum() + grid.low + grid.high
    assert grid.growth.grad is not None
    np.testing.assert_allclose(float(grid.growth.grad), slope * 0.05, rtol=1e-4)  # of the scale's logarithm
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 1, 0, 0]])


def test_a_step_that_is_not_learned_has_no_gradient() -> None:
    assert not list(StepGrid(GRID, learned=False).parameters())


def test_a_grid_does_not_grow_past_the_clamp_that_it_replaces() -> None:
    grid = StepGrid(ActivationGrid.of(0.0, 5.0), learned=True, bound=6.0)
    with torch.no_grad():
        grid.growth.fill_(1.0)
    grid.confine()
    assert float(grid.solution().scale) * 255 == pytest.approx(6.0)


def test_a_step_at_its_bound_can_shrink() -> None:
    grid = StepGrid(ActivationGrid.of(0.0, 6.0), learned=True, bound=6.0)
    with torch.no_grad():
        grid.growth.add_(0.1)
    grid.confine()
    grid(torch.full((1, 4), 5.0)).square().sum().backward()
    assert grid.growth.grad is not None
    assert float(grid.growth.grad) != 0


def test_a_step_stays_positive() -> None:
    grid = StepGrid(GRID, learned=True)
    with torch.no_grad():
        grid.growth.fill_(-99.0)
    grid.confine()
    assert grid.solution().scale > 0


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "step",
    [Rtn(bits=3, symmetric=False), Rtn(bits=4, block_size=4), Rtn(bits=3, block_size=4, two_level=True)],
    ids=["affine", "blocks", "two levels"],
)
def test_a_new_weight_equals_its_codes_and_so_does_its_solution(name: str, step: Rtn) -> None:
    model = quantize(single(name), step, LAYERS[name].images())
    (layer,) = model.layers().values()
    held, weight = model.quantized[layer.name], step_weight(model)
    matrix, bias = weight()
    values = layer.stored(held.grid.values(held.codes)).astype(np.float32)
    np.testing.assert_allclose(matrix.detach().numpy(), values, rtol=1e-6, atol=0)
    codes, grid, after = weight.solution()
    np.testing.assert_array_equal(codes, held.codes)
    np.testing.assert_array_equal(grid.scale, held.grid.scale)
    assert (bias is None) == (after is None) == (model.bias(layer) is None)


@pytest.mark.parametrize(
    "step", [Rtn(bits=4), Rtn(bits=3, block_size=16, two_level=True)], ids=["channel", "two levels"]
)
def test_a_trained_weight_is_written_as_it_computes(step: Rtn) -> None:
    model = quantize(single("conv2d"), step, LAYERS["conv2d"].images(), ranges=True)
    weight = step_weight(model)
    with torch.no_grad():
        weight.weight.add_(torch.from_numpy(random(*weight.weight.shape)))
        weight.growth.add_(0.3)
    codes, grid, _ = weight.solution()
    np.testing.assert_allclose(weight()[0].detach().numpy(), weight.layer.stored(grid.values(codes)), rtol=1e-6)
    assert codes.min() >= weight.low
    assert codes.max() <= weight.high


def test_a_scale_is_kept_large_enough_for_its_bias() -> None:
    model = quantize(single("conv2d"), Rtn(bits=4), LAYERS["conv2d"].images(), ranges=True)
    weight = step_weight(model)
    with torch.no_grad():
        weight.start_scale.mul_(1e-12)
    _, grid, bias = weight.solution()
    assert bias is not None
    step = float(weight.inputs[0].step().detach())
    assert (np.abs(bias) / (grid.scale[:, :, 0] * step) < 2.0**29 * 1.001).all()
