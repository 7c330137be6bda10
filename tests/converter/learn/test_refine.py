"""Learned rounding on whole networks: what it may change, what it gains, and what is refused."""

import copy
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, count, cycle, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

torch = pytest.importorskip("torch")

from converter import Recipe, convert  # noqa: E402
from converter.correct import exact_model  # noqa: E402
from converter.emit.qdq import emit  # noqa: E402
from converter.learn import learn_rounding  # noqa: E402
from converter.learn.held_out import HeldOut  # noqa: E402
from converter.learn.judge import network_db  # noqa: E402
from converter.learn.refine import _Network  # noqa: E402
from converter.learn.rounding import Outcome  # noqa: E402
from converter.recipe import Pass  # noqa: E402
from converter.segments import cut  # noqa: E402
from converter.streams import Streams  # noqa: E402
from converter.walk import DEFAULT_BUDGET, solve_layer  # noqa: E402
from passes.activation_ranges import ActivationRanges  # noqa: E402
from passes.base import Model, PassReport  # noqa: E402
from passes.bias_correction import BiasCorrection  # noqa: E402
from passes.check import check  # noqa: E402
from passes.errors import ConvertError, DataError, QuantizationError, RecipeError, UsageError  # noqa: E402
from passes.gptq import Gptq  # noqa: E402
from passes.learned_rounding import LearnedRounding  # noqa: E402
from passes.normalise import Normalise  # noqa: E402
from passes.numerics.error import sqnr_db  # noqa: E402
from passes.qat import Qat  # noqa: E402
from passes.rtn import Rtn  # noqa: E402
from tests.converter.networks import (  # noqa: E402
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
    wide,
)

X, UNSEEN = images(64, 3, 12, 12), images(64, 3, 12, 12, seed=9)
SHORT = LearnedRounding(steps=10, batch=16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are slower in several, and sums stay in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learned(
    settings: LearnedRounding = SHORT, *, bits: int = 3, seed: int = 0, ranges: bool = True
) -> tuple[Model, PassReport]:
    model = quantize(resnet(), Gptq(bits=bits), X, ranges=ranges)
    report = learn_rounding(model, settings, dataset(model, X), quiet, solver=None, budget=DEFAULT_BUDGET, seed=seed)
    check(model, settings.name)
    return model, report


def state(model: Model) -> dict[str, NDArray[Any]]:
    """Everything that learning may change."""
    found: dict[str, NDArray[Any]] = {}
    for name, layer in model.layers().items():
        held, bias = model.quantized[name], model.bias(layer)
        found |= {f"{name} codes": held.codes, f"{name} scale": held.grid.scale}
        if bias is not None:
            found[f"{name} bias"] = bias
    return found


def same(one: Model, other: Model) -> bool:
    left, right = state(one), state(other)
    return left.keys() == right.keys() and all(np.array_equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("granularity", ["block", "layer", "network"])
@pytest.mark.parametrize("ranges", [True, False], ids=["integer", "weight_only"])
def test_images_that_were_learned_from_come_closer_to_the_float_network(granularity: Any, ranges: bool) -> None:
    """In the written file; rounding to the nearest leaves much to gain."""
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


def test_what_gains_nothing_stays_as_it_was() -> None:
    """Steps far too long make every block worse."""
    model, report = learned(LearnedRounding(steps=4, scale_rate=1e3, bias_rate=1e3, move_share=0))
    assert same(model, quantize(resnet(), Gptq(bits=3), X, ranges=True))
    assert not report.changed
    assert all("learning gained nothing" in reason for reason in report.skipped.values())


def test_codes_move_and_stay_where_that_is_asked_for() -> None:
    before = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    for share, moved in ((0.06, True), (0.0, False)):
        model = quantize(resnet(), Rtn(bits=2), X, ranges=True)
        settings = LearnedRounding(steps=10, batch=16, move_share=share)
        learn_rounding(model, settings, dataset(model, X), quiet, solver=None, budget=DEFAULT_BUDGET, seed=0)
        changed = any((model.quantized[name].codes != held.codes).any() for name, held in before.quantized.items())
        assert changed == moved
        assert not same(model, before)


def test_blocks_that_gain_where_the_network_does_not_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = quantize(resnet(), Gptq(bits=2), X, ranges=True)
    model = quantize(resnet(), Gptq(bits=2), X, ranges=True)
    judged = chain([9.0], repeat(8.5))
    monkeypatch.setattr("converter.learn.refine.network_db", lambda *_: next(judged))
    report = learn_rounding(model, SHORT, dataset(model, X), quiet, solver=Gptq(bits=2), budget=DEFAULT_BUDGET, seed=0)
    check(model, "learned_rounding")
    assert same(model, before)
    assert not report.changed
    assert "blocks gained, the network did not (9.00 -> 8.50 dB on held-out images)" in report.skipped.values()


def test_without_a_solver_every_block_is_put_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    before = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    model = quantize(resnet(), Rtn(bits=2), X, ranges=True)
    judged = chain([9.0, 9.5], repeat(9.25))
    monkeypatch.setattr("converter.learn.refine.network_db", lambda *_: next(judged))
    report = learn_rounding(model, SHORT, dataset(model, X), quiet, solver=None, budget=DEFAULT_BUDGET, seed=0)
    put_back = {name for name, reason in report.skipped.items() if "the network did not (9.50 -> 9.25 dB" in reason}
    assert put_back
    assert report.changed
    for name, held in before.quantized.items():
        same_codes = (model.quantized[name].codes == held.codes).all()
        assert same_codes == (name not in report.changed)


def relearned(monkeypatch: pytest.MonkeyPatch, solver: Gptq | None) -> tuple[Model, PassReport]:
    """Layer by layer from GPTQ's codes for the images that do not judge; the network is made to gain."""
    judged = cycle([1.0, 2.0]) if solver else count(1.0)
    monkeypatch.setattr(_Network, "decibels", lambda _: next(judged))
    monkeypatch.setattr("converter.learn.refine.hold_out", lambda *_: HeldOut(np.arange(56), np.arange(56, 64)))
    model = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    settings = LearnedRounding(granularity="layer", steps=10, batch=16)
    report = learn_rounding(model, settings, dataset(model, X), quiet, solver=solver, budget=DEFAULT_BUDGET, seed=0)
    check(model, settings.name)
    return model, report


def test_layers_behind_a_block_that_learned_are_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind, not before; and on what the layer that learned gives, or GPTQ would find the codes it had found."""
    start = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    again, report = relearned(monkeypatch, Gptq(bits=2))
    names = list(again.layers())
    solved = [name for name in names if name in report.changed and "solved again" in report.changed[name].what]
    first = next(name for name in names if name in report.changed)
    assert first not in solved
    assert solved == names[names.index(first) + 1 :]
    assert any((again.quantized[name].codes != start.quantized[name].codes).any() for name in solved)
    for name in solved:
        if not report.changed[name].what.startswith("learned"):
            assert report.changed[name].before_db == start.quantized[name].sqnr_db
    learned_layers = sum(change.what.startswith("learned") for change in report.changed.values())
    assert f"{learned_layers} of {len(names)} layers learned" in report.notes[0]


def test_a_layer_is_solved_again_on_what_the_layer_before_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block is made to learn one thing, a bias; GPTQ on a network with that bias gives the same codes."""
    start = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    first, *others = start.layers()

    def learn_first(self: _Network, _: Any, inside: Any, *__: Any) -> Any:
        if first not in inside:
            return "left alone"
        layer, bias = inside[first], self.model.bias(inside[first])
        assert bias is not None
        self.model.write(layer, self.model.weight(layer), bias + np.float32(0.3))
        return Outcome(1.0, 2.0, improved=True, moved=0)

    monkeypatch.setattr(_Network, "refine", learn_first)
    model, report = relearned(monkeypatch, Gptq(bits=2))
    assert report.changed.keys() == {first, *others}

    asked = solve_layer

    def with_bias(work: Model, layer_pass: Any, layer: Any, *rest: Any) -> Any:
        change = asked(work, layer_pass, layer, *rest)
        if layer.name == first:
            bias = work.bias(layer)
            assert bias is not None
            work.write(layer, work.weight(layer), bias + np.float32(0.3))
        return change

    monkeypatch.setattr("converter.walk.solve_layer", with_bias)
    direct = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    for name in others:
        assert np.array_equal(model.quantized[name].codes, direct.quantized[name].codes)
    assert any((direct.quantized[name].codes != start.quantized[name].codes).any() for name in others)


def test_what_cannot_be_learned_says_so_though_it_is_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    last = list(start.layers())[-1]
    learn_block = _Network.refine

    def refused(self: _Network, piece: Any, inside: Any, *rest: Any) -> Any:
        return "no form" if last in inside else learn_block(self, piece, inside, *rest)

    monkeypatch.setattr(_Network, "refine", refused)
    _, report = relearned(monkeypatch, Gptq(bits=2))
    assert report.changed[last].what.startswith("solved again behind layers that learned")
    assert report.changed[last].what.endswith("no form")
    monkeypatch.setattr(_Network, "decibels", lambda _: 1.0)
    model = quantize(resnet(), Gptq(bits=2), X[:56], ranges=True)
    settings = LearnedRounding(granularity="layer", steps=10, batch=16)
    put_back = learn_rounding(
        model, settings, dataset(model, X), quiet, solver=Gptq(bits=2), budget=DEFAULT_BUDGET, seed=0
    )
    assert same(model, start)
    assert put_back.skipped[last] == "no form"


def test_nothing_is_held_in_memory_that_fits_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations in files give the same codes, and the files are gone in the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spill = Streams._spill
    spilled: list[int] = []

    def counted(self: Streams, array: NDArray[Any]) -> NDArray[Any]:
        spilled.append(array.nbytes)
        return spill(self, array)

    monkeypatch.setattr(Streams, "_spill", counted)
    found, settings = [], LearnedRounding(steps=4, batch=16)
    for budget in (DEFAULT_BUDGET, 0):
        model = quantize(wide(), Gptq(bits=2), X, ranges=True)
        learn_rounding(model, settings, dataset(model, X), quiet, solver=Gptq(bits=2), budget=budget, seed=0)
        found.append(model)
        assert bool(spilled) is (budget == 0)
    assert same(*found)
    assert not list(tmp_path.iterdir())


def test_what_is_read_for_the_last_time_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []
    leave = _Network.leave

    def watched(self: _Network, piece: Any, learned: bool) -> None:
        leave(self, piece, learned)
        alive.append({name for pair in (self.train, self.judge) for _, name in pair.streams._arrays})

    monkeypatch.setattr(_Network, "leave", watched)
    model, _ = relearned(monkeypatch, Gptq(bits=2))
    segments = cut(model.graph, model.layers())
    for index, names in enumerate(alive):
        still_read = {name for segment in segments[index + 1 :] for name in segment.inputs}
        assert names <= still_read
    assert not alive[-1]


def test_a_recipe_has_its_layers_solved_again_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = cycle([1.0, 2.0])
    monkeypatch.setattr(_Network, "decibels", lambda _: next(judged))
    steps = (Normalise(), ActivationRanges(), Gptq(bits=2), LearnedRounding(granularity="layer", steps=10, batch=16))
    result = convert(resnet(), X, recipe=Recipe("r", "", steps))
    assert any("solved again behind layers that learned" in layer.note for layer in result.layers)


def test_what_solves_layers_again() -> None:
    gptq, first, second = Gptq(bits=2), LearnedRounding(), LearnedRounding(steps=7)
    for steps, learning, solver in (
        ((gptq, first), first, gptq),
        ((gptq, first, second), first, gptq),
        ((gptq, first, second), second, None),  # what the first learned would be lost
        ((gptq, Qat(), first), first, None),
        ((gptq, BiasCorrection(), first), first, None),
        ((Rtn(bits=2), first), first, None),
        ((Gptq(bits=2, sequential=False, asymmetric_target=False, few_rows=False), first), first, None),
    ):
        assert Recipe("r", "", (Normalise(), *steps)).solver_before(learning) is solver


def test_the_network_is_judged_by_the_outputs_of_its_file() -> None:
    model = quantize(resnet(), Rtn(bits=3), X, ranges=True)
    some = np.array([1, 20, 33])
    expected, found = run(resnet(), X)[0][some], run(emit(model, "int8"), X)[0][some]
    assert network_db(model, exact_model(model), dataset(model, X).select(some)) == pytest.approx(
        sqnr_db(expected, found), abs=1e-2
    )


def test_a_seed_says_what_comes_out() -> None:
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
    report = learn_rounding(model, SHORT, dataset(model, data), quiet, solver=None, budget=DEFAULT_BUDGET, seed=0)
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
        budget=DEFAULT_BUDGET,
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
    report = learn_rounding(model, settings, dataset(model, X[:16]), quiet, solver=None, budget=DEFAULT_BUDGET, seed=0)
    assert not report.changed
    assert all(reason in found for found in report.skipped.values())
    assert report.skipped.keys() == {"first", "head"}


def refused(model: Model, settings: LearnedRounding, data: Any) -> None:
    before = copy.deepcopy(state(model)) if model.quantized else {}
    kept = None if data is None else dataset(model, data)
    try:
        learn_rounding(model, settings, kept, quiet, solver=None, budget=DEFAULT_BUDGET, seed=0)
    finally:
        after = state(model) if model.quantized else {}
        assert before.keys() == after.keys()
        assert all(np.array_equal(value, after[name]) for name, value in before.items())


def test_nothing_quantized_is_refused() -> None:
    with pytest.raises(QuantizationError, match="learned_rounding refines quantized layers; put it after gptq or rtn"):
        refused(prepared(resnet()), SHORT, X)


def test_no_data_are_refused() -> None:
    model = quantize(resnet(), Rtn(bits=3), X)
    with pytest.raises(DataError, match="learned_rounding needs calibration data; use --calibration"):
        refused(model, SHORT, None)
    with pytest.raises(UsageError, match="needs calibration data"):
        convert(resnet(), recipe=Recipe("r", "", (Normalise(), Rtn(bits=3), SHORT)))


def test_no_cuda_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = quantize(resnet(), Rtn(bits=3), X)
    with pytest.raises(QuantizationError, match="torch finds no CUDA device; use --device cpu or auto"):
        refused(model, LearnedRounding(device="cuda"), X)


def test_no_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    model = quantize(resnet(), Rtn(bits=3), X)
    with pytest.raises(ConvertError, match=r"learned_rounding learns with torch; pip install convert-onnx\[torch\]"):
        refused(model, SHORT, X)


def test_it_stands_after_a_layer_pass() -> None:
    with pytest.raises(RecipeError):
        Recipe("r", "", (Normalise(), SHORT, Rtn(bits=3)))


def test_a_device_is_for_recipes_that_learn() -> None:
    with pytest.raises(UsageError, match="recipe 'int4' learns nothing, so --device cpu has no use; leave it out"):
        convert(resnet(), X, recipe="int4", device="cpu")
    steps = (Normalise(), Rtn(bits=3), LearnedRounding(steps=2, device="cuda"))
    result = convert(resnet(), X, recipe=Recipe("r", "", steps), device="cpu")
    assert result.recipe.passes[-1] == LearnedRounding(steps=2, device="cpu")
