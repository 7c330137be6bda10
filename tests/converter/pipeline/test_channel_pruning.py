"""Whole channels taken out of a network, from the call to the file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper

import converter
from converter import Budget, DataError, Result, Settings, UsageError, convert, convert_within, find_recipe
from converter.calibration.make_up import make_up
from converter.calibration.statistics import calibrate
from converter.channels.costs import products_of, seconds_of
from converter.channels.effects import measure_group_effects
from converter.pipeline.channel_shares import channel_step
from converter.pipeline.search_record import Search
from converter.qdq.pruned import taken_channels
from converter.recipes.overrides import with_channels
from converter.targets.catalog import find_target
from passes.channels.channel_groups import channel_groups
from passes.channels.prune_channels import PruneChannels
from passes.errors import BudgetError, QuantizationError
from passes.ir.model import Model
from passes.numerics.channel_allocation import LayerCosts
from passes.numerics.error import sqnr_db
from passes.statistics import Needs, Stats
from tests.support.networks import LAYERS, conv, dataset, images, network, prepared, quiet, resnet, run, wide

DATA = images(48, 3, 12, 12)
UNSEEN = images(32, 3, 12, 12, seed=9)


def pruned(model: onnx.ModelProto, share: float = 0.3, recipe: str = "int8", **settings: Any) -> Result:
    """Convert without a share of the products, which do not depend on the machine."""
    plan = find_recipe(recipe)
    with_step = with_channels(plan, share)
    step = channel_step(with_step)
    assert step is not None
    passes = tuple(dataclasses.replace(each, of="macs") if each is step else each for each in with_step.passes)
    return convert(model, DATA, recipe=dataclasses.replace(with_step, passes=passes), settings=Settings(**settings))


def products(model: onnx.ModelProto) -> float:
    work = prepared(model)
    groups = channel_groups(work)
    sample = next(dataset(work, DATA).batches(1))
    return products_of(work, groups, sample).total(np.ones(len(groups.groups)))


def redundant(channels: int = 32) -> onnx.ModelProto:
    """Make a network whose layer `c` writes every channel twice, so that half of them can go."""
    model = wide(channels)
    graph = gs.import_onnx(model)
    node = next(each for each in graph.nodes if each.name == "broad")
    for tensor in node.inputs[1:]:
        tensor.values = np.concatenate([tensor.values[: channels // 2]] * 2)
    exported: onnx.ModelProto = gs.export_onnx(graph)
    return exported


def test_the_file_is_smaller_and_the_report_says_what_went() -> None:
    plain, result = convert(wide(), DATA), pruned(wide())
    assert result.model.ByteSize() < 0.9 * plain.model.ByteSize()
    report = next(each for each in result.passes if each.name == "prune_channels")
    assert "channels removed" in report.notes[0]
    assert result.recipe.name == "int8-channels"
    shapes = {layer.name: layer.shape for layer in result.layers}
    assert any(shapes[layer.name] != layer.shape for layer in plain.layers)
    assert run(result.model, UNSEEN)[0].shape == (32, 7)


def test_channels_that_are_written_twice_cost_nothing() -> None:
    """Half of the channels of a layer repeat the others. Greedy choice finds them, and the scores hardly change."""
    model = redundant()
    result, plain = pruned(model, 0.3), convert(model, DATA)
    step = channel_step(result.recipe)
    assert step is not None
    assert step.group_shares["broad"] >= 0.375
    reference = run(model, UNSEEN)[0]
    expected = sqnr_db(reference, run(plain.model, UNSEEN)[0])
    assert sqnr_db(reference, run(result.model, UNSEEN)[0]) > min(expected, 25) - 6


def test_the_recipe_of_the_file_gives_the_file_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    result = pruned(wide())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("converter.pipeline.channel_shares.measure_channels", refuse)
    again = convert(wide(), DATA, recipe=result.recipe)
    assert again.model.graph == result.model.graph


@pytest.mark.parametrize(("deterministic", "of"), [(False, "latency"), (True, "macs")])
def test_time_goes_unless_the_file_must_not_depend_on_it(
    deterministic: bool, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def timed(_: Any, model: Any, groups: Any, *__: Any) -> LayerCosts:
        measured.append("latency")
        return products_of(model, groups, next(dataset(model, DATA).batches(1)))

    monkeypatch.setattr("converter.pipeline.channel_shares.seconds_of", timed)
    settings = Settings(prune_channels=0.2, deterministic=deterministic)
    step = channel_step(convert(wide(), DATA, settings=settings).recipe)
    assert step is not None
    assert step.of == "auto"
    assert step.group_shares
    assert measured == ["latency"] * (of == "latency")


def test_times_are_fitted_for_every_layer() -> None:
    """A part that stays and a part that grows. Neither is negative, and together they are the time of the file."""
    recipe = with_channels(find_recipe("int8"), 0.3)
    work = prepared(wide())
    groups = channel_groups(work)
    sample = next(dataset(work, DATA).batches(1))
    costs = seconds_of(wide(), work, groups, recipe, find_target("cpu"), sample, quiet)
    assert len(costs.fixed) >= len(work.layers())
    assert (costs.fixed >= 0).all()
    assert (costs.moving >= 0).all()
    assert costs.total(np.ones(len(groups.groups))) > 0


def test_another_machine_has_no_time_here() -> None:
    plan = with_channels(find_recipe("int8"), 0.3)
    passes = tuple(
        dataclasses.replace(each, of="latency") if isinstance(each, PruneChannels) else each for each in plan.passes
    )
    with pytest.raises(QuantizationError, match='of = "latency" times the CPU of this machine, and target tensorrt'):
        convert(wide(), DATA, recipe=dataclasses.replace(plan, passes=passes), target="tensorrt")


def test_a_share_of_the_products_goes() -> None:
    plain = products(wide())
    result = pruned(wide(), 0.4, "int4-weight-only")
    step = channel_step(result.recipe)
    assert step is not None
    work = prepared(wide())
    groups = channel_groups(work)
    kept = np.array([1 - step.group_shares.get(group.name, 0.0) for group in groups.groups])
    costs = products_of(work, groups, next(dataset(work, DATA).batches(1)))
    assert costs.total(kept) <= 0.6 * plain
    assert costs.total(np.ones(len(kept))) == plain


def test_products_are_those_of_the_layers() -> None:
    """A convolution of 3x3 over 3 channels at stride 2 on 12x12, and so on."""
    expected = 36 * 16 * 27 + 36 * 8 * 16 + 36 * 32 * 72 + 2 * 36 * 32 * 288 + 7 * 32
    assert products(wide()) == expected


@pytest.mark.slow
def test_every_layer_makes_up_for_the_layers_before_it() -> None:
    """One layer after the other is better than each on the inputs of the whole network."""
    errors = {}
    reference = run(resnet(), UNSEEN)[0]
    for sequential in (False, True):
        plan = with_channels(find_recipe("int8"), 0.5)
        step = PruneChannels(share=0.5, multiple=1, fewest=2, sequential=sequential)
        passes = tuple(step if isinstance(each, PruneChannels) else each for each in plan.passes)
        result = convert(resnet(), DATA, recipe=dataclasses.replace(plan, passes=passes))
        errors[sequential] = sqnr_db(reference, run(result.model, UNSEEN)[0])
    assert errors[True] > errors[False] + 0.5


def test_effects_rise_and_the_model_stays() -> None:
    model = prepared(wide())
    weights = {name: model.weight(layer) for name, layer in model.layers().items()}
    step = PruneChannels()
    data = dataset(model, DATA)
    effects = list(measure_group_effects(model, step, data, dataset(model, UNSEEN), quiet, seed=0, memory_budget=2**28))
    assert {each.name for each in effects} <= set(channel_groups(model).by_name())
    for each in effects:
        assert each.kept[0] == each.size
        assert each.errors[0] == 0 < each.errors[-1]
    for name, layer in model.layers().items():
        assert np.array_equal(model.weight(layer), weights[name])


def test_moments_that_do_not_fit_together_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[frozenset[str]] = []

    def counted(model: Model, needs: Needs, *rest: Any, **named: Any) -> Stats:
        asked.append(needs.moments)
        return calibrate(model, needs, *rest, **named)

    monkeypatch.setattr("converter.channels.effects.calibrate", counted)
    model = prepared(wide())
    data, unseen = dataset(model, DATA), dataset(model, UNSEEN)
    found = {
        budget: list(measure_group_effects(model, PruneChannels(), data, unseen, quiet, seed=0, memory_budget=budget))
        for budget in (2**28, 2**14)
    }
    for one, other in zip(found[2**14], found[2**28], strict=True):  # batches, so sums, differ
        assert (one.name, one.kept) == (other.name, other.kept)
        assert one.errors == pytest.approx(other.errors, rel=1e-3)
    whole, *parts = asked
    assert len(parts) > 1
    assert whole == frozenset().union(*parts)


def test_nothing_is_made_up_for_if_nothing_went() -> None:
    model, reference = prepared(wide()), prepared(wide())
    make_up(model, reference, {}, dataset(model, DATA), quiet, memory_budget=2**28, seed=0)
    for name, layer in model.layers().items():
        assert np.array_equal(model.weight(layer), reference.weight(reference.layers()[name]))


@pytest.mark.slow
def test_a_pruned_network_trains_with_its_shapes() -> None:
    labels = run(wide(), DATA)[0].argmax(1)
    plan = with_channels(find_recipe("int4-qat"), 0.3)
    step = PruneChannels(group_shares={"broad": 0.5})
    passes = tuple(step if isinstance(each, PruneChannels) else each for each in plan.passes)
    recipe = dataclasses.replace(plan, passes=passes)
    result = converter.train(wide(), (DATA, labels), recipe=recipe, qat={"epochs": 1})
    shapes = {layer.name: layer.shape for layer in result.layers}
    assert shapes["broad"] == (16, 8, 3, 3)
    assert shapes["large"] == (32, 16, 3, 3)
    assert run(result.model, UNSEEN)[0].shape == (32, 7)


def test_a_share_that_cannot_go_is_refused_before_effects_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: Any, **__: Any) -> Any:
        pytest.fail("effects were measured")

    monkeypatch.setattr("converter.pipeline.channel_shares.measure_group_effects", measured)
    with pytest.raises(UsageError, match=r"share 0.99 of macs cannot go, .*; use at most 0\.[1-9]"):
        pruned(wide(32), share=0.99)


def test_a_model_without_channels_to_remove_is_refused() -> None:
    layer, plan = LAYERS["conv2d"], with_channels(find_recipe("int8"), 0.3)
    with pytest.raises(QuantizationError, match="no channels can go: y is an output of the model; leave"):
        convert(layer.model(), layer.images(), recipe=plan)
    with pytest.raises(QuantizationError, match="no channels can go: broad has most, 8, of which 8 stay"):
        convert(small(), DATA, recipe=plan)
    searched = convert_within(small(), DATA, Budget(max_bytes=10**6), settings=Settings(prune_channels="auto"))
    assert searched.taken is None


def small() -> onnx.ModelProto:
    """Make a network whose layers have 8 channels."""
    constants: dict[str, Any] = {}
    nodes = [
        conv(constants, "broad", "x", "a", (8, 3, 3, 3)),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        conv(constants, "last", "r", "y", (4, 8, 3, 3)),
    ]
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 4, 12, 12]})


def test_the_file_and_what_reads_it_say_what_was_taken(tmp_path: Path) -> None:
    result = pruned(wide(), 0.4)
    taken = result.taken
    assert taken is not None
    assert taken.macs is not None
    assert taken.macs[1] <= 0.6 * taken.macs[0] == 0.6 * products(wide())
    words = f"{taken.channels[0] - taken.channels[1]} of {taken.channels[0]} channels removed"
    result.save(tmp_path / "pruned.onnx")
    facts = converter.inspect(tmp_path / "pruned.onnx").model["channels"]
    assert {name: tuple(counts) for name, counts in facts["groups"].items()} == taken.groups
    assert facts["summary"].startswith(words)
    compared = converter.compare(wide(), tmp_path / "pruned.onnx", UNSEEN)
    assert compared.taken == taken
    plain = convert(wide(), DATA)
    assert plain.taken is None
    plain.save(tmp_path / "plain.onnx")
    assert "channels" not in converter.inspect(tmp_path / "plain.onnx").model


def test_metadata_of_another_form_say_nothing() -> None:
    model = wide()
    for value in ("null", "[]", "{", '{"groups": {"a": 3}}', '{"groups": {}, "channels": [1], "weights": [1, 2]}'):
        del model.metadata_props[:]
        entry = model.metadata_props.add()
        entry.key, entry.value = "convert_onnx.channels", value
        assert taken_channels(model) is None


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=f"`prune_channels={share:g}` is no share above 0 and below 1"):
        Settings(prune_channels=share)


def test_a_choice_by_a_budget_without_a_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="`prune_channels='auto'` lets a budget choose the share; give `max_drop=`"):
        convert(wide(), DATA, settings=Settings(prune_channels="auto"))
    with pytest.raises(UsageError, match=r"`prune_channels=0\.3` has no effect with a budget"):
        convert_within(wide(), DATA, Budget(max_drop=1), settings=Settings(prune_channels=0.3))


def test_recipes_that_keep_codes_or_prune_already_are_refused() -> None:
    with pytest.raises(UsageError, match="recipe 'keep' keeps the codes of the model"):
        with_channels(find_recipe("keep"), 0.3)
    with pytest.raises(UsageError, match="recipe 'int8-channels' has a prune_channels pass already"):
        with_channels(with_channels(find_recipe("int8"), 0.3), 0.3)


def test_data_are_needed() -> None:
    with pytest.raises(UsageError, match="needs calibration data"):
        convert(wide(), recipe=with_channels(find_recipe("int4-weight-only"), 0.3))
    with pytest.raises(DataError, match="prune_channels needs at least 2 samples"):
        convert(wide(), DATA[:1], recipe=with_channels(find_recipe("int8"), 0.3))


@pytest.mark.slow
def test_a_budget_takes_channels(tmp_path: Path) -> None:
    """With products in place of time, the attempts are the same on every machine."""
    settings = Settings(prune_channels="auto", limit=32, deterministic=True)
    result = convert_within(redundant(), DATA, Budget(max_drop=30.0), settings=settings, cache=tmp_path)
    assert result.search is not None
    names = [attempt.name for attempt in result.search.attempts]
    assert names[:2] == ["int8", "int8 without 30%"]
    tried = [attempt for attempt in result.search.attempts if attempt.name.startswith("int8 without")]
    assert min(attempt.bytes for attempt in tried) < result.search.attempts[0].bytes
    held = [attempt for attempt in result.search.attempts if attempt.holds]
    assert result.model.ByteSize() == min(attempt.bytes for attempt in held)
    assert channel_step(result.recipe) is not None


@pytest.mark.slow
def test_one_recipe_within_a_budget_takes_the_largest_share_that_holds() -> None:
    settings = Settings(prune_channels="auto", limit=32, deterministic=True)
    result = convert_within(redundant(), DATA, Budget(max_drop=100.0), recipe="int8", settings=settings)
    assert result.search is not None
    assert all(attempt.name.startswith("int8") for attempt in result.search.attempts)
    step = channel_step(result.recipe)
    assert step is not None
    assert step.share >= 0.3


def test_without_channels_to_remove_a_search_goes_on_with_all(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(prune_channels="auto", limit=32, deterministic=True)
    with pytest.raises(BudgetError) as raised:
        convert_within(small(), DATA, Budget(max_bytes=2000), settings=settings)
    assert "goes on with all channels: no channels can go: broad has most, 8, of which 8 stay" in caplog.text
    assert isinstance(raised.value.search, Search)
    names = [attempt.name for attempt in raised.value.search.attempts]
    assert names[:2] == ["int8", "int4"]
    assert names.count("int8") == 1
