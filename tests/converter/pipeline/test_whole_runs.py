"""Models whose inputs share no batch: samples are whole runs, everywhere that data are read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import converter
from converter import Settings
from converter.runtime.saturation import sums_saturate
from passes.errors import ConvertError
from passes.numerics.error import sqnr_db
from tests.support.graphs import run
from tests.support.recipes import SOLVING
from tests.support.recurrent import recurrent, runs

TEST = next(runs(1, seed=77))


def unread() -> Any:
    return pytest.fail("the data were read")


@pytest.mark.parametrize("recipe", [name for name in SOLVING if name not in {"int2-learned", "int4-qat"}])
def test_layers_are_quantized(recipe: str) -> None:
    result = converter.convert(recurrent(), runs, recipe=recipe)
    eight = recipe.startswith("int8") or recipe == "dynamic"
    assert all(layer.bits == (8 if eight else 4) for layer in result.layers)
    saturates = recipe == "dynamic" and sums_saturate()
    for expected, actual in zip(run(recurrent(), TEST), run(result.model, TEST), strict=True):
        assert sqnr_db(expected, actual) > (33 if eight and not saturates else 14)


def test_calibration_sees_every_run() -> None:
    """One run has a larger state than all others, so the range of what reads the state is wider."""

    def spiked() -> Iterator[dict[str, Any]]:
        for index, feeds in enumerate(runs(16)):
            yield feeds | ({"state": 50 * feeds["state"]} if index == 11 else {})

    highest = []
    for data in (lambda: runs(16), spiked):
        model = converter.convert(recurrent(), data, recipe="int8").model
        quantized = next(each for each in model.graph.node if each.op_type == "QuantizeLinear" and each.input[0] == "e")
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        highest.append(255 * float(constants[quantized.input[1]]))
    assert highest[1] > 10 * highest[0]


def test_measurements_take_runs() -> None:
    model = recurrent()
    result = converter.convert(model, runs, evaluation=lambda: runs(6, seed=50))
    assert result.fidelity is not None
    assert result.metrics is not None
    assert result.metrics.data["images"] == 6
    evaluated = converter.evaluate([model, result.model], lambda: runs(6, seed=50), latency=False).models[1]
    compared = converter.compare(model, result.model, lambda: runs(6, seed=50))
    verified = converter.verify(result.model, "cpu", lambda: runs(6, seed=50), reference=model)
    assert evaluated.sqnr_db is not None
    assert evaluated.sqnr_db > 30
    assert evaluated.sqnr_db == pytest.approx(compared.sqnr_db, abs=0.5)
    assert verified.passed
    assert verified.images == 6
    assert verified.float_db is not None
    assert result.metrics.models[1].latency_ms is not None
    assert {entry.tensor for entry in compared.layers} >= {"b", "f", "y"}
    assert len(compared.worst) == 5


def test_speed_is_measured_on_a_run() -> None:
    result = converter.convert(recurrent(), runs, settings=Settings(measure_speed=True))
    assert result.speed is not None
    assert result.speed.float_ms > 0


def test_noise_verifies_a_model_whose_sizes_are_its_batch() -> None:
    model = recurrent()
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "layers":
                dim.dim_value = 2
    assert converter.verify(converter.convert(model, runs).model, "cpu").images == 1


@pytest.mark.parametrize("recipe", ["int2-learned", "int4-qat"])
def test_learning_is_refused_before_data_are_read(recipe: str) -> None:
    with pytest.raises(ConvertError, match="share no batch axis; recipes int4 and int8-gptq take it"):
        converter.convert(recurrent(), unread, recipe=recipe)


@pytest.mark.parametrize("recipe", ["int2-learned", "int4-qat"])
def test_learning_on_samples_of_different_shapes_is_refused(recipe: str) -> None:
    model = recurrent(gain=False, names=False)
    with pytest.raises(ConvertError, match="learns on batches, and the samples run one at a time"):
        converter.convert(model, lambda: runs(8, gain=False), recipe=recipe)


def test_a_budget_takes_runs() -> None:
    found = converter.convert_within(recurrent(), lambda: runs(96), converter.Budget(max_bytes=6000))
    assert found.model.ByteSize() <= 6000


def test_runs_of_one_frame_give_the_file_of_rows() -> None:
    """A row on axis 0 is the same as a run."""
    each = [feeds for feeds in runs(96) if len(feeds["x"]) == 1]
    rows = {name: np.stack([feeds[name] for feeds in each]) for name in each[0]}
    first, second = (converter.convert(recurrent(), data).model for data in (each, rows))
    assert first.graph.SerializeToString(deterministic=True) == second.graph.SerializeToString(deterministic=True)
