"""Quantization-aware training on whole networks: the file equals the trained network, gains, and can be resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from converter import Recipe, Settings, convert, train  # noqa: E402
from converter.learn.training.objective import Score, is_classifier, loss  # noqa: E402
from converter.learn.training.trained_network import TrainedNetwork  # noqa: E402
from converter.learn.training.training_loop import train_network  # noqa: E402
from converter.learn.training_file import TrainingFile  # noqa: E402
from converter.qdq.writer import emit  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.errors import DataError, OutputError, QuantizationError, RecipeError, UsageError  # noqa: E402
from passes.graph.check import check  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.ir.model import Model  # noqa: E402
from passes.numerics.error import sqnr_db  # noqa: E402
from passes.weights.gptq import Gptq  # noqa: E402
from passes.weights.prune import Prune  # noqa: E402
from passes.weights.qat import Qat  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import conv, dataset, images, network, prepared, quantize, quiet, resnet, run, set_ranges  # noqa: E402

X, UNSEEN = images(64, 3, 12, 12), images(64, 3, 12, 12, seed=9)
SHORT = Qat(epochs=2, batch=16, rate=0.01)


def labelled(model: onnx.ModelProto, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The images with the classes that the float network gives them."""
    return x, run(model, x)[0].argmax(1)


def quantized(bits: int = 2) -> Model:
    return quantize(resnet(), Rtn(bits=bits), X, ranges=True)


def outputs(model: Model, x: NDArray[np.float32] = UNSEEN) -> NDArray[np.float32]:
    results: NDArray[np.float32] = run(emit(model, "int8"), x)[0]
    return results


def test_the_network_computes_what_its_file_does() -> None:
    model = quantized(4)
    assert sqnr_db(outputs(model), in_torch(model)) > 40  # integer kernels round where floats tie


def test_a_trained_network_computes_what_its_file_does() -> None:
    model = quantized(3)
    report = train_network(model, replace(SHORT, objective="float"), dataset(prepared(resnet()), X), quiet, seed=0)
    check(model, "qat")
    assert set(report.changed) == set(model.layers())
    results, expected = in_torch(model), outputs(model)
    np.testing.assert_array_equal(expected.argmax(1), results.argmax(1))
    assert np.abs(expected - results).max() < 1e-2 * np.ptp(expected)


def in_torch(model: Model) -> NDArray[np.float32]:
    inputs = {"x": torch.from_numpy(UNSEEN)}
    network = TrainedNetwork(model, inputs, learn_activations=True)
    with torch.no_grad():
        results: NDArray[np.float32] = next(iter(network(inputs).values())).numpy()
    return results


@pytest.mark.parametrize("learn_activations", [True, False])
def test_step_sizes_of_activations_change_only_if_they_are_learned(learn_activations: bool) -> None:
    model = quantized(3)
    before = dict(model.activation_qparams)
    settings = replace(SHORT, objective="float", learn_activations=learn_activations)
    report = train_network(model, settings, dataset(prepared(resnet()), X), quiet, seed=0)
    moved = [name for name, grid in model.activation_qparams.items() if grid.scale != before[name].scale]
    assert bool(moved) == learn_activations
    assert all(grid.zero_point == before[name].zero_point for name, grid in model.activation_qparams.items())
    if learn_activations:
        assert {name: covered.grid for name, covered in report.ranges.items()} == model.activation_qparams
        assert all(covered.low < covered.high for covered in report.ranges.values())
        assert all(0 <= covered.clipped < 0.1 for covered in report.ranges.values())


def test_training_brings_unseen_images_closer_to_the_float_network() -> None:
    """A tenth of the rate gains 1 dB at 2 bits already. A training that does nothing gains none.

    The mean of two trainings is asserted. One training gains 7.5 to 10.0 dB, depending on the seed and on the last
    digits of sums (8 seeds; 1 and 2 threads; BLAS kernels of three processors).
    """
    expected = run(resnet(), UNSEEN)[0]
    settings = Qat(epochs=15, batch=16, rate=0.01, objective="float")
    gains = []
    for seed in (0, 1):
        model = quantized(2)
        before = sqnr_db(expected, outputs(model))
        train_network(model, settings, dataset(prepared(resnet()), X), quiet, seed=seed)
        gains.append(sqnr_db(expected, outputs(model)) - before)
    assert np.mean(gains) > 1


def test_labels_are_learned() -> None:
    """The float network does not give these labels, so only training can."""
    x, classes = labelled(resnet(), X)
    y = (classes + 1) % 10
    model = quantized(4)
    before = (outputs(model, x).argmax(1) == y).mean()
    data = dataset(prepared(resnet()), (x, y))
    settings = Qat(epochs=12, batch=16, optimizer="adam", rate=0.01)
    report = train_network(model, settings, data, quiet, seed=0)
    assert "learned from labels" in report.notes[0]
    assert (outputs(model, x).argmax(1) == y).mean() > before + 0.3


def test_removed_weights_stay_zero() -> None:
    """Weights that were left may become zero and leave it again. Those that were removed may not leave it."""
    model = quantize(resnet(), Prune(bits=4, fewest_inputs=0), X, ranges=True)
    removed = {name: ~solved.pruned.kept for name, solved in model.quantized.items() if solved.pruned is not None}
    before = {name: solved.codes for name, solved in model.quantized.items()}
    assert set(removed) == set(model.layers())
    x, classes = labelled(resnet(), X)
    data = dataset(prepared(resnet()), (x, (classes + 1) % 10))  # not those of the float network: much is to learn
    settings = Qat(epochs=6, batch=16, optimizer="adam", rate=0.05)
    report = train_network(model, settings, data, quiet, seed=0)
    check(model, "qat")
    assert report.changed
    for name, mask in removed.items():
        assert not model.weight(model.layers()[name])[mask].any()
        assert model.quantized[name].pruned is not None
    assert any((model.quantized[name].codes != codes).mean() > 0.01 for name, codes in before.items())


def test_a_network_that_gains_nothing_does_not_change() -> None:
    model = quantized(8)
    before = outputs(model)
    settings = replace(SHORT, rate=1.0, epochs=1, objective="float")  # far too fast
    report = train_network(model, settings, dataset(prepared(resnet()), X), quiet, seed=0)
    assert not report.changed
    assert "gained nothing" in report.notes[0]
    np.testing.assert_array_equal(outputs(model), before)


def test_a_seed_determines_the_result() -> None:
    results = []
    for seed in (0, 0, 1):
        model = quantized(3)
        settings = replace(SHORT, objective="float", epochs=4, shift=1)
        report = train_network(model, settings, dataset(prepared(resnet()), X), quiet, seed=seed)
        assert report.changed
        results.append(outputs(model))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


class _Killed(BaseException):
    """Ends a training run from inside."""


def test_a_killed_training_goes_on_where_it_was(tmp_path: Path) -> None:
    data, settings = dataset(prepared(resnet()), X), replace(SHORT, epochs=3, objective="float")
    whole = quantized(3)
    train_network(whole, settings, data, quiet, seed=0)
    steps: list[int] = []

    def kill(_: str, done: int, total: int) -> None:
        if done == total // 3 + 2:
            raise _Killed

    path = tmp_path / "out.checkpoint"
    file = TrainingFile(path, "")
    with pytest.raises(_Killed):
        train_network(quantized(3), settings, data, kill, seed=0, checkpoint=file)
    assert path.exists()
    assert list(tmp_path.iterdir()) == [path]
    resumed = quantized(3)
    train_network(resumed, settings, data, lambda _, done, __: steps.append(done), seed=0, checkpoint=file)
    assert steps[0] == 4  # 57 images learned from, 16 a step: the second epoch begins after three
    np.testing.assert_array_equal(outputs(resumed), outputs(whole))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    data, path = dataset(prepared(resnet()), X), tmp_path / "out.checkpoint"
    once, file = replace(SHORT, epochs=1), TrainingFile(path, "")
    train_network(quantized(3), once, data, quiet, seed=0, checkpoint=file)
    with pytest.raises(UsageError, match="belongs to another training"):
        train_network(quantized(3), replace(SHORT, epochs=2), data, quiet, seed=0, checkpoint=file)
    other = quantized(3)
    set_ranges(other, UNSEEN * 2)
    starts = (quantize(resnet(), Gptq(bits=3), X, ranges=True), other)
    for start in starts:  # other codes, other grids of activations
        with pytest.raises(UsageError, match="belongs to another training"):
            train_network(start, once, data, quiet, seed=0, checkpoint=file)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="not a checkpoint"):
        train_network(quantized(3), once, data, quiet, seed=0, checkpoint=file)


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    data = dataset(prepared(resnet()), X)
    with pytest.raises(OutputError, match="nowhere"):
        train_network(quantized(3), SHORT, data, quiet, seed=0, checkpoint=TrainingFile(tmp_path / "nowhere" / "c", ""))


def test_a_rate_that_is_too_large_is_refused() -> None:
    model, data = quantized(4), dataset(prepared(resnet()), X)
    before = outputs(model)
    with pytest.raises(QuantizationError, match="the loss of the training is"):
        train_network(model, replace(SHORT, rate=1e30, objective="float"), data, quiet, seed=0)
    np.testing.assert_array_equal(outputs(model), before)


def test_the_report_has_a_deciding_loss_and_a_warning_of_few_images(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As many images are right as before, at a smaller loss. That epoch is better, and accuracy does not show it."""
    scores = iter([Score(1.5, 0.5), *[Score(1.25, 0.5)] * 99])
    monkeypatch.setattr("converter.learn.training.training_loop._Training._score", lambda _: next(scores))
    model = quantized(3)
    report = train_network(model, SHORT, dataset(prepared(resnet()), X), quiet, seed=0)
    assert "50.00 % -> 50.00 % as the float network of 6 held-out samples, loss 1.5 -> 1.25" in report.notes[0]
    assert caplog.messages == ["only 6 held-out samples choose the best epoch; give more samples"]


@pytest.mark.parametrize("op", ["Ceil", "Resize"])
def test_an_operator_that_cannot_be_trained_is_named(op: str) -> None:
    constants: dict[str, NDArray[Any]] = {"scales": np.array([1, 1, 2, 2], np.float32)}
    reads, settings = (["a", "", "scales"], {"mode": "cubic"}) if op == "Resize" else (["a"], {})
    nodes = [
        conv(constants, "first", "x", "a", (4, 3, 1, 1)),
        onnx.helper.make_node(op, reads, ["b"], "between", **settings),
        conv(constants, "second", "b", "c", (4, 4, 1, 1)),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["y"], "pool"),
    ]
    proto = network(nodes, constants, {"x": ["N", 3, 4, 4]}, {"y": ["N", 4, 1, 1]})
    x = images(16, 3, 4, 4)
    model = quantize(proto, Rtn(bits=4), x, ranges=True)
    with pytest.raises(QuantizationError, match=rf"^{op}.* has no differentiable form, so the network cannot be train"):
        train_network(model, SHORT, dataset(prepared(proto), x), quiet, seed=0)
    begun = set[str]()
    with pytest.raises(QuantizationError, match=rf"{op}.* has no differentiable form"):
        convert(proto, x, recipe="int4-qat", progress=lambda what, *_: begun.add(what))
    assert "gptq" not in begun  # refused before what takes long


def test_scores_may_have_axes_of_one() -> None:
    outputs = {"y": torch.zeros(3, 4, 1, 1)}
    assert is_classifier(outputs)
    assert float(loss("labels", outputs, outputs, torch.tensor([0, 1, 2]))) == pytest.approx(np.log(4))
    assert not is_classifier({"y": torch.zeros(3, 4, 2, 1)})


def test_two_trainings_in_a_recipe_are_refused() -> None:
    with pytest.raises(RecipeError, match="once"):
        Recipe("twice", "", (Normalise(), Gptq(), Qat(), Qat()))


def test_nothing_quantized_is_refused() -> None:
    with pytest.raises(QuantizationError, match="put it after gptq"):
        train_network(prepared(resnet()), SHORT, dataset(prepared(resnet()), X), quiet, seed=0)


def test_one_call_trains_and_writes(tmp_path: Path) -> None:
    steps = (Normalise(), ActivationRanges(), Gptq(bits=2), Qat(batch=16, rate=0.01, held_out=0.25))
    recipe = Recipe("trained", "", steps, limit=32)
    result = train(resnet(), X, recipe=recipe, qat={"epochs": 1}, settings=Settings(checkpoint=tmp_path / "c"))
    assert result.recipe.passes[-1] == replace(steps[-1], epochs=1)
    assert result.passes[-1].name == "qat"
    assert result.calibration is not None
    assert result.calibration["images"] == 32
    result.save(tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("settings", "message"), [({"epochs": 0}, "epochs must be at least 1"), ({"speed": 1}, "speed")]
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(resnet(), X, qat=settings)


def test_training_data_that_nothing_trains_on_are_refused() -> None:
    with pytest.raises(UsageError, match="has no pass that trains"):
        train(resnet(), X, recipe="int8")
    with pytest.raises(UsageError, match="has no pass that trains"):
        convert(resnet(), X, training=X, recipe="int4")
    with pytest.raises(UsageError, match="has no pass that trains"):
        convert(resnet(), X, settings=Settings(checkpoint=Path("c")), recipe="int4")


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(DataError, match="label"):
        convert(resnet(), (X, np.arange(64)), recipe=Recipe("t", "", (ActivationRanges(), Gptq(), SHORT)))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_metric_chooses_the_epoch(sign: int) -> None:
    """A metric that rises with every measurement keeps the last epoch, and one that falls keeps none."""
    measured: list[int] = []

    def later(outputs: dict[str, np.ndarray], labels: dict[str, Any]) -> float:  # noqa: ARG001
        measured.append(1)
        return float(sign * len(measured))

    result = train(
        resnet(),
        X,
        recipe=Recipe("trained", "", (Normalise(), ActivationRanges(), Gptq(bits=4), SHORT)),
        qat={"epochs": 2},
        settings=Settings(metric=later),
    )
    (note,) = result.passes[-1].notes
    assert ("(epoch 2)" in note) == (sign > 0)
    assert ("gained nothing" in note) == (sign < 0)
    assert "later" in note
