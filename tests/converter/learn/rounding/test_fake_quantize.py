"""Blocks in torch against the file that is written with the same codes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converter.learn.graph.program import Program  # noqa: E402
from converter.learn.rounding.fake_quantize import LearnedWeight, QuantizedBlock, fake_quantize  # noqa: E402
from converter.qdq.writer import emit  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.numerics.error import sqnr_db  # noqa: E402
from passes.numerics.grid import ActivationGrid  # noqa: E402
from passes.weights.gptq import Gptq  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import LAYERS, images, quantize, random, resnet, run, single  # noqa: E402


def weights(model: Model) -> dict[str, LearnedWeight]:
    """Learned weights of all layers, by layer name."""
    result = {}
    for name, layer in model.layers().items():
        held, grid = model.quantized[name], model.activation_qparams.get(layer.input)
        unit = np.ones(layer.matrix_shape[:2], np.float32)
        step = None if grid is None else float(grid.scale)
        result[name] = LearnedWeight(layer, held.codes, held.grid, model.bias(layer), unit, step)
    return result


@pytest.mark.parametrize("zero_point", [0, 17])
def test_activations_are_on_their_grid(zero_point: int) -> None:
    grid = ActivationGrid(np.float32(0.05), zero_point, False, -1.0, 1.0)
    x = random(1000) * np.float32(4)
    np.testing.assert_allclose(fake_quantize(torch.from_numpy(x), grid).numpy(), grid.values(x), atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "step",
    [Rtn(bits=3, symmetric=False), Rtn(bits=4, block_size=4), Rtn(bits=3, block_size=4, two_level=True)],
    ids=["affine", "blocks", "two levels"],
)
def test_a_new_weight_equals_the_stored_one_and_so_does_its_solution(name: str, step: Rtn) -> None:
    model = quantize(single(name), step, LAYERS[name].images())
    (layer,) = model.layers().values()
    (weight,) = weights(model).values()
    held = model.quantized[layer.name]
    matrix, _ = weight()
    np.testing.assert_array_equal(
        matrix.detach().numpy(), layer.stored(held.grid.values(held.codes)).astype(np.float32)
    )
    codes, grid, bias = weight.solution()
    np.testing.assert_array_equal(codes, held.codes)
    np.testing.assert_array_equal(grid.scale, held.grid.scale)
    np.testing.assert_array_equal(grid.zero_point, held.grid.zero_point)
    assert (bias is None) == (model.bias(layer) is None)


def test_a_changed_weight_is_written_as_it_computes() -> None:
    model = quantize(single("conv2d"), Rtn(bits=4), LAYERS["conv2d"].images())
    (layer,) = model.layers().values()
    (weight,) = weights(model).values()
    with torch.no_grad():
        assert weight.shift is not None
        weight.codes.add_(torch.where(weight.codes > 0, -1, 1))
        weight.growth.add_(0.1)
        weight.shift.add_(0.3)
    codes, grid, bias = weight.solution()
    np.testing.assert_array_equal(weight()[0].detach().numpy(), layer.stored(grid.values(codes)))
    present = model.bias(layer)
    assert bias is not None
    assert present is not None
    np.testing.assert_allclose(bias, present + np.float32(0.3), rtol=1e-6)


def test_a_scale_is_kept_large_enough_for_its_bias() -> None:
    model = quantize(single("conv2d"), Rtn(bits=4), LAYERS["conv2d"].images(), ranges=True)
    (weight,) = weights(model).values()
    with torch.no_grad():
        weight.growth.sub_(60)
    _, grid, bias = weight.solution()
    assert bias is not None
    assert weight.step is not None
    assert (np.abs(bias) / (grid.scale[:, :, 0] * weight.step) < 2.0**29 * 1.001).all()


def test_a_block_computes_what_the_file_does() -> None:
    x = images(32, 3, 12, 12)
    model = quantize(resnet(), Gptq(bits=4), x, ranges=True)
    block = QuantizedBlock(Program(model.graph), list(weights(model).values()), model.activation_qparams)
    inputs = model.activation_qparams["x"].values(x)
    with torch.no_grad():
        y = block({"x": torch.from_numpy(inputs)})["y"].numpy()
    # a sum in another order can fall on the other side of a tie; one missing rounding gives 50 dB
    assert sqnr_db(run(emit(model, "int8"), x)[0], y) > 65
