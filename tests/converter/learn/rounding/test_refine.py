"""Learned rounding on whole networks: changes, gains and refusals."""

import copy
import sys
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

torch = pytest.importorskip("torch")

from converter import Recipe, Settings, convert  # noqa: E402
from converter.calibration.correction import float_network  # noqa: E402
from converter.learn.learning import learn_rounding  # noqa: E402
from converter.learn.rounding.network_check import network_db  # noqa: E402
from converter.qdq.writer import emit  # noqa: E402
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.base import Pass  # noqa: E402
from passes.errors import ConvertError, DataError, QuantizationError, RecipeError, UsageError  # noqa: E402
from passes.graph.check import check  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.numerics.error import sqnr_db  # noqa: E402
from passes.report import PassReport  # noqa: E402
from passes.weights.gptq import Gptq  # noqa: E402
from passes.weights.learned_rounding import LearnedRounding  # noqa: E402
from passes.weights.prune import Prune  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import (  # noqa: E402
    branches,
    conv,
    dataset,
    images,
    network,
    prepared,
    quantize,
    quiet,
    random,
    resnet,
    run,
)
from tests.support.quantized_state import same, state  # noqa: E402
from tests.support.recurrent_layers import sequences, stacked  # noqa: E402

X, UNSEEN = images(64, 3, 12, 12), images(64, 3, 12, 12, seed=9)
SHORT = LearnedRounding(steps=10, batch=16)


def learned(
    settings: LearnedRounding = SHORT, *, bits: int = 3, seed: int = 0, ranges: bool = True
) -> tuple[Model, PassReport]:
    model = quantize(resnet(), Gptq(bits=bits), X, ranges=ranges)
    report = learn_rounding(
        model, settings, dataset(model, X), quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=seed
    )
    check(model, settings.name)
    return model, report


@pytest.mark.parametrize("granularity", ["block", "layer", "network"])
@pytest.mark.parametrize("ranges", [True, False], ids=["integer", "weight_only"])
def test_training_images_come_closer_to_the_float_network(granularity: Any, ranges: bool) -> None:
    """Measured on the written file. Rounding to nearest leaves much to gain."""
    steps: list[Pass] = [Normalise(), *([ActivationRanges()] if ranges else []), Rtn(bits=2)]
    settings = LearnedRounding(granularity=granularity, steps=30, batch=16)
    plain, better = (
        convert(resnet(), X, recipe=Recipe("r", "", tuple(passes))).model for passes in (steps, [*steps, settings])
    )
    expected = run(resnet(), X)[0]
    assert sqnr_db(expected, run(better, X)[0]) > sqnr_db(expected, run(plain, X)[0]) + 1


def test_every_layer_is_reported_once_and_gains_where_it_is_changed() -> None:
    model, report = learned()
    assert report.changed.keys() | report.skipped.keys() == model.layers().keys()
    assert not report.changed.keys() & report.skipped.keys()
    for change in report.changed.values():
        assert change.before_db is not None
        assert change.after_db is not None
        assert change.after_db > change.before_db


def test_a_network_that_gains_nothing_does_not_change() -> None:
    """Far too large rates make every block worse."""
    model, report = learned(LearnedRounding(steps=4, scale_rate=1e3, bias_rate=1e3, move_share=0))
    assert same(model, quantize(resnet(), Gptq(bits=3), X, ranges=True))
    assert not report.changed
    assert all("learning gained nothing" in reason for reason in report.skipped.values())


def test_removed_weights_stay_zero() -> None:
    model = quantize(resnet(), Prune(bits=2, fewest_inputs=0), X, ranges=True)
    removed = {name: ~solved.pruned.kept for name, solved in model.quantized.items() if solved.pruned is not None}
    before = {name: solved.codes for name, solved in model.quantized.items()}
    settings = replace(SHORT, steps=60)
    data = dataset(prepared(resnet()), X)
    report = learn_rounding(model, settings, data, quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0)
    check(model, "learned_rounding")
    assert report.changed
    assert any((model.quantized[name].codes != codes).any() for name, codes in before.items())
    for name, mask in removed.items():
        assert not model.weight(model.layers()[name])[mask].any()


def test_codes_move_only_with_a_move_share() -> None:
    before = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    for share, moved in ((0.06, True), (0.0, False)):
        model = quantize(resnet(), Rtn(bits=2), X, ranges=True)
        settings = LearnedRounding(steps=10, batch=16, move_share=share)
        learn_rounding(
            model, settings, dataset(model, X), quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
        )
        changed = any((model.quantized[name].codes != held.codes).any() for name, held in before.quantized.items())
        assert changed == moved
        assert not same(model, before)


def test_blocks_are_restored_if_the_network_does_not_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    before = quantize(resnet(), Gptq(bits=2), X, ranges=True)
    model = quantize(resnet(), Gptq(bits=2), X, ranges=True)
    judged = chain([9.0], repeat(8.5))
    monkeypatch.setattr("converter.learn.rounding.refine.network_db", lambda *_: next(judged))
    report = learn_rounding(
        model, SHORT, dataset(model, X), quiet, solver=Gptq(bits=2), memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
    )
    check(model, "learned_rounding")
    assert same(model, before)
    assert not report.changed
    assert (
        "single blocks gained, but the whole network did not (9.00 -> 8.50 dB on held-out samples)"
        in report.skipped.values()
    )


def test_without_a_solver_the_network_is_judged_after_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    before = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    model = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    judged = chain([9.0, 9.5], repeat(9.25))
    monkeypatch.setattr("converter.learn.rounding.refine.network_db", lambda *_: next(judged))
    report = learn_rounding(
        model, SHORT, dataset(model, X), quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
    )
    put_back = {
        name for name, reason in report.skipped.items() if "the whole network did not (9.50 -> 9.25 dB" in reason
    }
    assert put_back
    assert report.changed
    assert "outputs of the network 9.00 -> 9.50 dB on held-out samples" in report.notes
    for name, held in before.quantized.items():
        same_codes = (model.quantized[name].codes == held.codes).all()
        assert same_codes == (name not in report.changed)


def test_the_network_is_judged_by_the_outputs_of_its_file() -> None:
    model = quantize(resnet(), Rtn(bits=3), X, ranges=True)
    some = np.array([1, 20, 33])
    expected, actual = run(resnet(), X)[0][some], run(emit(model, "int8"), X)[0][some]
    assert network_db(model, float_network(model), dataset(model, X).select(some)) == pytest.approx(
        sqnr_db(expected, actual), abs=1e-2
    )


@pytest.mark.slow
def test_a_seed_determines_the_result() -> None:
    first, second, other = learned()[0], learned()[0], learned(seed=1)[0]
    assert same(first, second)
    assert not same(first, other)


def test_torch_keeps_its_random_state() -> None:
    before = torch.random.get_rng_state()
    learned()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_several_inputs_and_outputs() -> None:
    data = {"a": images(32, 3, 8, 8), "b": images(32, 4)}
    model = quantize(branches(), Rtn(bits=2), data, ranges=True)
    report = learn_rounding(
        model, SHORT, dataset(model, data), quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
    )
    check(model, "learned_rounding")
    assert report.changed


def test_a_block_with_an_operator_that_torch_has_no_form_of_is_left_alone() -> None:
    constants: dict[str, NDArray[Any]] = {}
    nodes = [
        conv(constants, "first", "x", "a", (4, 3, 3, 3)),
        helper.make_node("Ceil", ["a"], ["b"], "ceil"),
        conv(constants, "second", "b", "y", (4, 4, 3, 3)),
    ]
    proto: onnx.ModelProto = network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 4, 12, 12]})
    model = quantize(proto, Rtn(bits=3), X)
    report = learn_rounding(
        model,
        LearnedRounding(granularity="layer", steps=8),
        dataset(model, X),
        quiet,
        solver=None,
        memory_budget=DEFAULT_MEMORY_BUDGET,
        seed=0,
    )
    assert report.skipped == {"first": "Ceil (ceil) has no differentiable form"}
    assert "second" in report.changed


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([4, 4, 144], "torch cannot run the block on 14 images: "),
        ([1, -1, 576], "do not have one entry for every image"),
    ],
)
def test_a_block_for_one_size_of_batch_is_left_alone(shape: list[int], reason: str) -> None:
    constants: dict[str, NDArray[Any]] = {"shape": np.array(shape), "head.weight": random(shape[-1], 5)}
    nodes = [
        conv(constants, "first", "x", "a", (4, 3, 3, 3)),
        helper.make_node("Reshape", ["a", "shape"], ["b"], "reshape"),
        helper.make_node("MatMul", ["b", "head.weight"], ["y"], "head"),
    ]
    proto = network(nodes, constants, {"x": [4, 3, 12, 12]}, {"y": [shape[0], 4, 5]})
    model = quantize(proto, Rtn(bits=3), X[:16])
    settings = LearnedRounding(granularity="network", steps=4)
    report = learn_rounding(
        model, settings, dataset(model, X[:16]), quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
    )
    assert not report.changed
    assert all(reason in actual for actual in report.skipped.values())
    assert report.skipped.keys() == {"first", "head"}


def refused(model: Model, settings: LearnedRounding, data: Any) -> None:
    before = copy.deepcopy(state(model)) if model.quantized else {}
    calibration_data = None if data is None else dataset(model, data)
    try:
        learn_rounding(
            model, settings, calibration_data, quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
        )
    finally:
        after = state(model) if model.quantized else {}
        assert before.keys() == after.keys()
        assert all(np.array_equal(value, after[name]) for name, value in before.items())


def test_reports_give_the_error_whatever_the_loss() -> None:
    found = []
    for loss in ("error", "network", "cosine"):
        settings = LearnedRounding(method="soft", loss=loss, steps=1, soft_rate=0, scale_rate=0, bias_rate=0)
        model = quantize(resnet(), Rtn(bits=3), X)
        report = learn_rounding(
            model, settings, dataset(model, X), quiet, solver=None, memory_budget=DEFAULT_MEMORY_BUDGET, seed=0
        )
        found.append(report.skipped)
    assert all("dB on held-out samples" in why for why in found[0].values())
    assert found[0] == found[1] == found[2]


def test_nothing_quantized_is_refused() -> None:
    with pytest.raises(QuantizationError, match="learned_rounding refines quantized layers; put it after gptq or rtn"):
        refused(prepared(resnet()), SHORT, X)


def test_a_model_of_recurrent_layers_is_refused_with_what_takes_it() -> None:
    match = "learned_rounding can learn no layer: the model has only LSTM, GRU or RNN; recipe int4-weight-only takes it"
    with pytest.raises(QuantizationError, match=match):
        refused(prepared(stacked("LSTM", head=False)), SHORT, sequences(8))


def test_no_data_are_refused() -> None:
    model = quantize(resnet(), Rtn(bits=3), X)
    with pytest.raises(DataError, match="learned_rounding needs calibration data; use `calibration=`"):
        refused(model, SHORT, None)
    with pytest.raises(UsageError, match="needs calibration data"):
        convert(resnet(), recipe=Recipe("r", "", (Normalise(), Rtn(bits=3), SHORT)))


def test_no_cuda_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = quantize(resnet(), Rtn(bits=3), X)
    with pytest.raises(QuantizationError, match="torch finds no CUDA device; use `device='cpu'` or"):
        refused(model, LearnedRounding(device="cuda"), X)


def test_no_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    model = quantize(resnet(), Rtn(bits=3), X)
    with pytest.raises(ConvertError, match=r"learned_rounding learns with torch; pip install convert-onnx\[torch\]"):
        refused(model, SHORT, X)


def test_learned_rounding_must_follow_a_layer_pass() -> None:
    with pytest.raises(RecipeError):
        Recipe("r", "", (Normalise(), SHORT, Rtn(bits=3)))


def test_a_device_is_for_recipes_that_learn() -> None:
    with pytest.raises(
        UsageError, match="recipe 'int4' has no pass that learns, so `device='cpu'` has no effect; leave it out"
    ):
        convert(resnet(), X, recipe="int4", settings=Settings(device="cpu"))
    steps = (Normalise(), Rtn(bits=3), LearnedRounding(steps=2, device="cuda"))
    result = convert(resnet(), X, recipe=Recipe("r", "", steps), settings=Settings(device="cpu"))
    assert result.recipe.passes[-1] == LearnedRounding(steps=2, device="cpu")
