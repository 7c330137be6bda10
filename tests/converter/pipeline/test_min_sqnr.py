"""`Settings.min_sqnr`: what costs most stays in float until the file reaches it, or the file is refused."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import converter
from converter.pipeline.result import Result
from passes.errors import BudgetError, UsageError
from tests.support.graphs import array, build, node
from tests.support.outlier_network import SHAPE, residual, with_outlier

DATA = array(48, *SHAPE)

convert: Callable[..., Result] = converter.convert


def converted(aim: float | None, recipe: str = "int8") -> Result:
    return converter.convert(with_outlier(), DATA, recipe=recipe, settings=converter.Settings(min_sqnr=aim))


def sqnr(result: Result) -> float:
    assert result.fidelity is not None
    assert result.fidelity.sqnr_db is not None
    return result.fidelity.sqnr_db


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_file_is_raised_to_the_aim(recipe: str) -> None:
    before = sqnr(converted(None, recipe))
    result = converted(before + 6, recipe)
    assert sqnr(result) >= before + 6
    assert result.mending is not None
    assert result.mending.before_db == pytest.approx(before, abs=0.01)
    assert result.mending.after_db == sqnr(result)
    assert result.mending.files > 1
    assert "second" in (*result.mending.layers, *result.mending.bits)


def test_the_recipe_in_the_result_gives_the_same_file() -> None:
    result = converted(sqnr(converted(None)) + 6)
    again = converter.convert(with_outlier(), DATA, recipe=result.recipe)
    assert again.model.graph.SerializeToString() == result.model.graph.SerializeToString()


def test_activations_stay_in_float_where_they_are_at_fault() -> None:
    """Weights of 8 bits lose little here. Nearly all of the error comes from activations."""
    before = sqnr(converter.convert(residual(), DATA))
    result = converter.convert(residual(), DATA, settings=converter.Settings(min_sqnr=before + 2))
    assert result.mending is not None
    assert result.mending.activations


def test_a_file_in_float_reaches_nothing() -> None:
    """What only the float model has is refused."""
    refusal = r"no file reaches `min_sqnr=75` unless all layers stay in float"
    with pytest.raises(BudgetError, match=refusal):
        converted(75)
    with pytest.raises(BudgetError, match=refusal):
        converter.convert(with_outlier(), DATA, exclude=["head"], settings=converter.Settings(min_sqnr=75))


def test_a_file_that_has_it_is_not_changed() -> None:
    result = converted(1)
    assert result.mending is not None
    assert (result.mending.files, result.mending.activations, result.mending.layers) == (1, (), ())
    assert result.mending.describe().endswith("nothing had to change")


def test_what_no_file_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.pipeline.min_sqnr.choose", lambda *_: [])
    with pytest.raises(BudgetError, match=r"no file reaches `min_sqnr=60`, and none was written; the best of 1 has"):
        converted(60)


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    model = build(
        [node("Conv", ["x", "w"], ["a"], name="conv"), node("Shape", ["a"], ["s"]), node("Cast", ["s"], ["y"], to=8)],
        {"w": array(4, 3, 3, 3)},
        ["n", 3, 12, 12],
        dtype=1,
        output_shape=[4],
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    with pytest.raises(BudgetError, match="no output of the model can be compared with float"):
        converter.convert(model, DATA, settings=converter.Settings(min_sqnr=20))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"recipe": "keep"}, "keeps the codes of the model"),
        ({"recipe": "int4-qat"}, "trains the model"),
        ({"calibration": None, "recipe": "int4-weight-only"}, "`min_sqnr=20` is judged on samples"),
    ],
)
def test_recipes_without_a_choice_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        convert(residual(), **{"calibration": DATA, **given}, settings=converter.Settings(min_sqnr=20))


@pytest.mark.parametrize("aim", [0, -3, 81, float("nan"), "20"])
def test_numbers_that_are_no_aim(aim: object) -> None:
    with pytest.raises(UsageError, match="min_sqnr"):
        converter.Settings(min_sqnr=aim)  # type: ignore[arg-type]


def test_a_budget_decides_alone() -> None:
    with pytest.raises(UsageError, match="`min_sqnr=20` has no effect with a budget"):
        converter.convert_within(
            residual(), DATA, converter.Budget(max_bytes=10_000), settings=converter.Settings(min_sqnr=20)
        )


def test_a_bad_file_is_warned_of_with_the_cause(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = with_outlier()
    coarse = converter.find_recipe("int8").with_solver(bits=2, layer_bits={"second": 8})
    result = converter.convert(model, DATA, recipe=coarse)
    assert sqnr(result) < 15
    assert "has only" in caplog.text
    assert "most of it comes from the weight of" in caplog.text
    assert "`min_sqnr=20` leaves what costs most in float" in caplog.text
    result.save(tmp_path / "out.onnx")


def test_a_target_without_weight_only_layers_gets_whole_layers_in_float() -> None:
    """TensorRT reads no quantized weight on float activations, so such a layer stays in float as a whole."""
    target = "tensorrt"
    before = converter.convert(with_outlier(), DATA, target=target)
    result = converter.convert(
        with_outlier(), DATA, target=target, settings=converter.Settings(min_sqnr=sqnr(before) + 2)
    )
    assert sqnr(result) >= sqnr(before) + 2
    assert all(layer.bits == 32 for layer in result.layers if layer.activation_bits == 32)
