"""The plan of a sweep: every combination once, by name, from Python and from TOML."""

from pathlib import Path

import pytest

from converter import Preprocess, Settings, SweepModel, SweepPlan, SweepRecipe, UsageError, read_plan
from converter.sweeps.plan import cells_of
from passes.errors import ConvertError

PLAN = """
recipes = ["int8", { recipe = "int4", bits = [3, 4] }]
targets = ["cpu", "qnn"]
calibration = "photos.npz"
limit = 16
timing = false

[preprocess]
mean = [0.5]

[[models]]
model = "nets/first.onnx"

[[models]]
model = "net.py:net(num_classes=7)"
name = "other net"
evaluation = "unseen.npz"
input_shape = [1, 3, 12, 12]
exclude = ["fc"]
preprocess = { mean = [0.25] }
"""


def plan_of(tmp_path: Path, text: str) -> SweepPlan:
    (tmp_path / "plan.toml").write_text(text)
    return read_plan(tmp_path / "plan.toml")


def test_a_file_says_what_each_model_has(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, PLAN)
    first, other = plan.models
    assert (first.name, first.calibration, first.evaluation) == ("first", "photos.npz", None)
    assert (other.name, other.calibration, other.evaluation) == ("other_net", "photos.npz", "unseen.npz")
    assert (first.preprocess, other.preprocess) == (Preprocess(mean=(0.5,)), Preprocess(mean=(0.25,)))
    assert other.export.input_shape == (1, 3, 12, 12)
    assert other.exclude == ("fc",)
    assert plan.settings == Settings(limit=16, timing=False)


def test_a_model_replaces_single_fields_of_the_preprocessing(tmp_path: Path) -> None:
    text = PLAN.replace("preprocess = { mean = [0.25] }", "preprocess = { std = [0.25] }")
    assert plan_of(tmp_path, text).models[1].preprocess == Preprocess(mean=(0.5,), std=(0.25,))


def test_every_combination_is_there_once(tmp_path: Path) -> None:
    cells = cells_of(plan_of(tmp_path, PLAN))
    ways = ["int8", "int4-w3", "int4-w4"]
    models = ["first", "other_net"]
    expected = [f"{model}-{way}-{target}" for model in models for way in ways for target in ("cpu", "qnn")]
    assert [cell.name for cell in cells] == expected
    solvers = [cell.recipe.solver for cell in cells[:6:2]]
    assert [solver.bits for solver in solvers if solver is not None] == [8, 3, 4]


def test_bits_below_8_are_packed_where_a_recipe_stores_bytes() -> None:
    plan = SweepPlan((SweepModel("m.onnx"),), (SweepRecipe("int8", (8, 4)), SweepRecipe("int4", (8,))))
    assert [cell.recipe.storage for cell in cells_of(plan)] == ["int8", "cast", "cast"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipes = [", "is not TOML"),
        ("recipes = ['int8']", "without models converts nothing; give at least one"),
        ("models = ['m.onnx']", "without recipes converts nothing"),
        ("modles = ['m.onnx']", "no field is named 'modles'; did you mean 'models'?"),
        ("models = 'm.onnx'", "models is a list, not 'm.onnx'"),
        ("models = [3]\nrecipes = ['int8']", "model 1: 3 is neither the path of a model nor a table with `model`"),
        ("models = [{ path = 'm.onnx' }]\nrecipes = ['int8']", "nor a table with `model`"),
        ("models = [{ model = 'm.onnx', calib = 'x' }]", "model 1: no field is named 'calib'"),
        ("models = [{ model = 'm.onnx', name = 3 }]", "name is a text, not 3"),
        ("models = ['m.onnx']\nrecipes = [4]", "recipe 1: 4 is neither the name of a recipe"),
        ("models = ['m.onnx']\nrecipes = ['int8']\nbits = [9]", "`bits=9` is not from 2 to 8"),
        ("models = ['m.onnx']\nrecipes = ['int8']\nlimit = 'few'", "limit cannot be 'few'"),
        ("models = ['m.onnx']\nrecipes = ['int8']\nmetric = 'top1'", "would measure nothing for m"),
        ("models = ['m.onnx']\nrecipes = ['int8']\n[preprocess]\nmean = 'grey'", "preprocess: mean cannot be 'grey'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan_of(tmp_path, text)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "target", "words"),
    [
        (SweepRecipe("int9"), "cpu", "no recipe is named 'int9'"),
        (SweepRecipe("int8"), "gpu", "gpu"),
        (SweepRecipe("auto"), "cpu", "needs a budget"),
        (SweepRecipe("keep", (4,)), "cpu", "recipe 'keep' cannot have 4 bits"),
    ],
)
def test_what_no_conversion_can_be_is_refused(recipe: SweepRecipe, target: str, words: str) -> None:
    with pytest.raises(ConvertError) as refused:
        cells_of(SweepPlan((SweepModel("m.onnx"),), (recipe,), (target,)))
    assert words in str(refused.value)


def test_two_conversions_of_one_name_are_refused() -> None:
    plan = SweepPlan((SweepModel("a/m.onnx"), SweepModel("b/m.onnx")), (SweepRecipe("int8"),))
    with pytest.raises(UsageError, match=r"are called m-int8-cpu; give names to models: `name` in a SWEEP\.toml"):
        cells_of(plan)
    plan = SweepPlan((SweepModel("m.onnx"),), (SweepRecipe("int8"), SweepRecipe("int8")))
    with pytest.raises(UsageError, match="m-int8-cpu: a recipe, its bits or a target is there twice; leave one out"):
        cells_of(plan)


@pytest.mark.parametrize(
    ("field", "settings"), [("cache", Settings(cache="x")), ("checkpoint", Settings(checkpoint="x"))]
)
def test_settings_that_a_sweep_has_itself_are_refused(field: str, settings: Settings) -> None:
    with pytest.raises(UsageError, match=f"`{field}=` has no effect in a sweep"):
        SweepPlan((SweepModel("m.onnx"),), (SweepRecipe("int8"),), settings=settings)


def test_what_a_later_run_cannot_find_again_is_refused() -> None:
    with pytest.raises(UsageError, match="`model=` is of type bytes; give a path"):
        SweepModel(b"")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`models=` is of type str; give a list of SweepModel"):
        SweepPlan("m.onnx", (SweepRecipe("int8"),))  # type: ignore[arg-type]
