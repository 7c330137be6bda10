"""Soft rounding: where it starts, where its regularizer drives it, and what a block gains by it."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converter import Recipe, convert  # noqa: E402
from converter.learn.rounding.rounding import _optimizer  # noqa: E402
from converter.learn.rounding.soft_rounding import SoftWeight, regularizer  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.base import Pass  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.numerics.error import sqnr_db  # noqa: E402
from passes.weights.learned_rounding import LearnedRounding  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import LAYERS, images, prepared, quantize, resnet, run, single  # noqa: E402

GRIDS = {
    "channels": Rtn(bits=3),
    "zero points": Rtn(bits=3, symmetric=False),
    "blocks": Rtn(bits=4, block_size=4),
    "two levels": Rtn(bits=3, block_size=4, two_level=True),
}


def soft(step: Rtn, start: float, *, further: int = 0) -> tuple[SoftWeight, Model, np.ndarray]:
    """Weight of a layer whose codes lie ``further`` steps above the nearest ones, its model and its float weight."""
    model = quantize(single("gemm"), step, LAYERS["gemm"].images())
    (layer,) = model.layers().values()
    exact = prepared(single("gemm")).weight(layer)
    held = model.quantized[layer.name]
    low, high = -(2 ** (held.grid.bits - 1)), 2 ** (held.grid.bits - 1) - 1
    codes = np.clip(held.codes.astype(int) + further, low, high).astype(np.int8)
    unit = np.ones(layer.matrix_shape[:2], np.float32)
    state = (layer, codes, held.grid, model.bias(layer), unit, None, None)
    return SoftWeight(*state, exact=exact, start=start), model, exact


@pytest.mark.parametrize("step", GRIDS.values(), ids=GRIDS)
def test_nearest_codes_start_at_the_float_weight(step: Rtn) -> None:
    weight, model, exact = soft(step, 1.0)
    (layer,) = model.layers().values()
    held = model.quantized[layer.name]
    matrix = weight.levels(weight.scales()) * weight.multiple * weight.spread(weight.scales())
    inside = (held.codes > weight.low) & (held.codes < weight.high)
    assert inside.sum() > 20
    np.testing.assert_allclose(matrix.detach().numpy()[inside], exact[inside], atol=1e-6)


@pytest.mark.parametrize("step", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("further", [0, 3])
def test_with_start_0_the_codes_start_as_they_were(step: Rtn, further: int) -> None:
    weight, _, _ = soft(step, 0.0, further=further)
    before = weight.codes.clone()
    weight.round_codes()
    assert torch.equal(weight.codes, before)
    weight.rounded = False
    torch.testing.assert_close(weight.levels(weight.scales()) + weight.zero_point, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", GRIDS.values(), ids=GRIDS)
def test_codes_far_from_the_float_weight_may_move_one_step_towards_it(step: Rtn) -> None:
    weight, _, _ = soft(step, 1.0, further=3)
    before = weight.codes.clone()
    weight.round_codes()
    moved = weight.codes - before
    assert moved.abs().max() == 1
    assert weight.codes.min() >= weight.low
    assert weight.codes.max() <= weight.high


def test_removed_weights_keep_their_codes() -> None:
    model = quantize(single("gemm"), Rtn(bits=3), LAYERS["gemm"].images())
    (layer,) = model.layers().values()
    held = model.quantized[layer.name]
    kept = np.random.default_rng(0).random(held.codes.shape) < 0.5
    codes = np.where(kept, held.codes, 0).astype(np.int8)
    exact = prepared(single("gemm")).weight(layer)
    unit = np.ones(layer.matrix_shape[:2], np.float32)
    weight = SoftWeight(layer, codes, held.grid, model.bias(layer), unit, None, kept, exact=exact, start=1.0)
    with torch.no_grad():
        weight.logit.normal_(generator=torch.Generator().manual_seed(0))
    assert not weight()[0].detach().numpy().reshape(kept.shape[1:][::-1]).T[~kept[0]].any()
    weight.round_codes()
    assert not weight.codes.numpy()[~kept].any()
    assert not weight.solution()[0][~kept].any()


def test_the_regularizer_begins_after_the_warm_up_and_ends_at_whole_codes() -> None:
    weight, _, _ = soft(Rtn(bits=3), 1.0)
    assert regularizer([weight], 0.1) is None
    early, late = regularizer([weight], 0.3), regularizer([weight], 1.0)
    assert early is not None
    assert late is not None
    assert early.item() > late.item() > 0
    with torch.no_grad():
        weight.logit.copy_(torch.where(weight.share() < 0.5, -9.0, 9.0))
    settled = regularizer([weight], 1.0)
    assert settled is not None
    assert settled.item() == 0


def test_the_regularizer_alone_rounds_to_nearest() -> None:
    weight, model, _ = soft(Rtn(bits=3), 1.0)
    optimizer = torch.optim.Adam([weight.logit], lr=0.05)
    for step in range(300):
        optimizer.zero_grad()
        penalty = regularizer([weight], 0.2 + 0.8 * step / 300)
        assert penalty is not None
        penalty.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    share = weight.share()
    assert float(((share > 0) & (share < 1)).float().mean()) < 0.02
    weight.round_codes()
    (held,) = model.quantized.values()
    np.testing.assert_array_equal(weight.codes.numpy(), held.codes)


@pytest.mark.parametrize("loss", ["error", "network", "cosine"])
def test_soft_rounding_gains_on_nearest_codes(loss: Any) -> None:
    x = images(64, 3, 12, 12)
    steps: list[Pass] = [Normalise(), ActivationRanges(), Rtn(bits=2)]
    settings = LearnedRounding(method="soft", loss=loss, steps=120, batch=16, soft_rate=0.03, soft_start=1.0)
    plain, better = (
        convert(resnet(), x, recipe=Recipe("r", "", tuple(passes))).model for passes in (steps, [*steps, settings])
    )
    expected = run(resnet(), x)[0]
    assert sqnr_db(expected, run(better, x)[0]) > sqnr_db(expected, run(plain, x)[0]) + 1


def test_rates_are_constant_with_soft_codes_only() -> None:
    assert LearnedRounding().decays
    assert not LearnedRounding(method="soft").decays
    assert LearnedRounding(method="soft", schedule="cosine").decays


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "cosine"), ("adam", "constant")])
def test_other_optimizers_and_schedules(optimizer: Any, schedule: Any) -> None:
    x = images(64, 3, 12, 12)
    settings = LearnedRounding(method="soft", steps=20, batch=16, optimizer=optimizer, schedule=schedule)
    passes = (Normalise(), ActivationRanges(), Rtn(bits=2), settings)
    assert convert(resnet(), x, recipe=Recipe("r", "", passes)).passes[-1].name == "learned_rounding"
    weight, _, _ = soft(Rtn(bits=3), 1.0)
    used, rates = _optimizer([weight], [weight], settings)
    assert isinstance(used, {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer])
    assert rates == [settings.scale_rate, settings.bias_rate, settings.soft_rate]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("soft_start", 1.5),
        ("soft_start", -0.1),
        ("soft_rate", -1.0),
        ("regularizer", float("nan")),
        ("loss", "other"),
        ("optimizer", "lion"),
        ("schedule", "step"),
    ],
)
def test_fields_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        LearnedRounding(method="soft", **{field: value})


def test_methods_are_named_and_moves_have_no_cosine() -> None:
    method: Any = "hard"
    with pytest.raises(ValueError, match="method must be one of moves, soft, not 'hard'"):
        LearnedRounding(method=method)
    with pytest.raises(ValueError, match="loss = cosine has no second order for method = moves"):
        LearnedRounding(loss="cosine")
