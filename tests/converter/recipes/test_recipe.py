"""Recipes: TOML and back, and what is refused."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.data.preprocess import Preprocess
from converter.qdq.weights import STORAGES
from converter.recipes.builtin import RECIPES, find_recipe
from converter.recipes.recipe import Recipe
from converter.recipes.registry import PASSES
from converter.recipes.toml import dump_recipe, parse_recipe
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Stage
from passes.errors import RecipeError
from passes.graph.exclude import Exclude
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.scale_migration.awq import Awq
from passes.scale_migration.equalize import Equalize
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn

ONE_PASS = '[[passes]]\npass = "rtn"\n'


@pytest.mark.parametrize("name", RECIPES)
def test_a_built_in_recipe_survives_toml(name: str) -> None:
    assert parse_recipe(dump_recipe(RECIPES[name]), "f.toml") == RECIPES[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shown_recipe_spells_every_field_out(name: str) -> None:
    text = dump_recipe(RECIPES[name])
    for step in RECIPES[name].passes:
        for field in dataclasses.fields(step):
            if getattr(step, field.name) not in (None, {}):
                assert f"{field.name} = " in text


def test_the_promised_recipes_are_there() -> None:
    assert {"int8", "int4", "int4-weight-only", "int4-matmulnbits"} <= set(RECIPES)
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.description


def test_every_pass_can_be_named() -> None:
    for name, kind in PASSES.items():
        before, after = (kind.stage < Stage.WEIGHTS, kind.stage > Stage.WEIGHTS)
        text = f'[[passes]]\npass = "{name}"\n'
        recipe = parse_recipe(after * ONE_PASS + text + before * ONE_PASS, "f.toml")
        assert kind() in recipe.passes


@given(
    gptq=st.builds(
        Gptq,
        bits=st.integers(2, 8),
        symmetric=st.booleans(),
        block_size=st.none() | st.sampled_from([16, 32, 256]),  # MatMulNBits has no others
        first_last_bits=st.none() | st.integers(2, 8),
        recurrent_bits=st.none() | st.integers(2, 8),
        layer_bits=st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), st.integers(2, 8)
        ),
        sequential=st.booleans(),
        damping=st.floats(1e-6, 1),
        act_order=st.booleans(),
        asymmetric_target=st.booleans(),
        bias_correction=st.booleans(),
        refine=st.integers(0, 9),
    ),
    ranges=st.builds(
        ActivationRanges,
        method=st.sampled_from(["mse", "percentile", "entropy", "minmax"]),
        percentile=st.floats(50, 100, exclude_min=True),
    ),
    excluded=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)),
    storage=st.sampled_from(STORAGES),
    limit=st.integers(1, 10**6),
    preprocess=st.builds(
        Preprocess,
        mean=st.none() | st.just((0.5, 0.4, 0.3)),
        resize=st.none() | st.just(256),
        crop=st.none() | st.just(224),
    ),
)
def test_any_recipe_survives_toml(
    gptq: Gptq, ranges: ActivationRanges, excluded: list[str], storage: str, limit: int, preprocess: Preprocess
) -> None:
    if storage == "dynamic":  # it has no blocks
        gptq = dataclasses.replace(gptq, block_size=None)
    steps = (Normalise(), FoldBatchnorm(), Exclude(tuple(excluded)), ranges, gptq)
    recipe = Recipe("mine", 'of "my" own', steps, storage, limit, 7, preprocess)  # type: ignore[arg-type]
    assert parse_recipe(dump_recipe(recipe), "f.toml") == recipe


def test_a_file_is_named_after_itself_and_short_forms_do(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'storage = "matmulnbits"\nlimit = 64\n\n[preprocess]\nmean = [0.5, 0.5, 0.5]\nresize = 32\n\n'
        '[[passes]]\npass = "exclude"\nlayers = ["fc"]\n\n'
        '[[passes]]\npass = "gptq"\nbits = 4\nblock_size = 32\nlayer_bits = { stem = 8 }\ndamping = 1\n',
        encoding="utf-8",
    )
    expected = Recipe(
        "mine",
        "",
        (Exclude(("fc",)), Gptq(bits=4, block_size=32, layer_bits={"stem": 8}, damping=1.0)),
        "matmulnbits",
        64,
        preprocess=Preprocess(mean=(0.5, 0.5, 0.5), resize=32),
    )
    assert find_recipe(path) == find_recipe(str(path)) == expected
    assert isinstance(find_recipe(path).passes[1], Gptq)


def test_a_recipe_is_found_by_name_or_is_itself() -> None:
    assert find_recipe("int4") is RECIPES["int4"]
    assert find_recipe(RECIPES["int8"]) is RECIPES["int8"]


@pytest.mark.parametrize(
    ("steps", "needed"),
    [
        ((Normalise(), FoldBatchnorm(), Rtn(bits=4)), False),
        ((ActivationRanges(), Rtn(bits=8)), True),
        ((Gptq(bits=4),), True),
        ((SmoothQuant(), Rtn(bits=8)), True),
        ((Awq(), Rtn(bits=4)), True),
        ((Equalize(), Rtn(bits=4)), False),
    ],
)
def test_which_recipes_need_data(steps: tuple[Rtn, ...], needed: bool) -> None:
    assert Recipe("r", "", steps).needs_calibration == needed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("= 3", "f.toml is not TOML: "),
        ('[[passes]]\npass = "gptq', "f.toml is not TOML: "),
        ("", r"f.toml has no \[\[passes\]\]; a recipe has a"),
        ("passes = []", r"has no \[\[passes\]\]"),
        ("passes = 3", r"has no \[\[passes\]\]"),
        ('passes = ["gptq"]', r"has no \[\[passes\]\]"),
        ('[[passes]]\npass = "gtpq"', "f.toml, pass 1: no pass is named 'gtpq'; did you mean 'gptq'?"),
        (ONE_PASS + '[[passes]]\npass = "?"', "f.toml, pass 2: no pass is named '\\?'; there are: normalise, "),
        ("[[passes]]\nbits = 4", "f.toml, pass 1: no pass is named None"),
        ("[[passes]]\npass = 4", "f.toml, pass 1: no pass is named 4"),
        (
            '[[passes]]\npass = "gptq"\nbit = 4',
            r"f.toml, pass 1 \(gptq\): no field is named 'bit'; did you mean 'bits'\?",
        ),
        ('[[passes]]\npass = "gptq"\nname = "x"', "no field is named 'name'"),
        ("storages = 'cast'\n" + ONE_PASS, "f.toml: no field is named 'storages'; did you mean 'storage'?"),
        (
            "[preprocess]\nmaen = [0.5]\n" + ONE_PASS,
            "f.toml, preprocess: no field is named 'maen'; did you mean 'mean'?",
        ),
        ('[[passes]]\npass = "gptq"\nbits = "four"', r"f.toml, pass 1 \(gptq\): bits cannot be 'four'"),
        ('[[passes]]\npass = "gptq"\nbits = 4.0', "bits cannot be 4.0"),
        ('[[passes]]\npass = "gptq"\nbits = true', "bits cannot be True"),
        ('[[passes]]\npass = "gptq"\nblock_size = "32"', "block_size cannot be '32'"),
        ('[[passes]]\npass = "gptq"\nact_order = 1', "act_order cannot be 1"),
        ('[[passes]]\npass = "gptq"\ndamping = "low"', "damping cannot be 'low'"),
        ('[[passes]]\npass = "gptq"\nlayer_bits = 3', "layer_bits cannot be 3"),
        ('[[passes]]\npass = "gptq"\nlayer_bits = { fc = "8" }', "layer_bits cannot be {'fc': '8'}"),
        ('[[passes]]\npass = "exclude"\nlayers = "fc"', "layers cannot be 'fc'"),
        ('[[passes]]\npass = "exclude"\nlayers = ["fc", 3]', r"layers cannot be \['fc', 3\]"),
        ('[[passes]]\npass = "gptq"\nbits = 1', "weight bits must be 2 to 8, not 1"),
        ('[[passes]]\npass = "gptq"\nfirst_last_bits = 9', "weight bits must be 2 to 8, not 9"),
        ('[[passes]]\npass = "gptq"\nrecurrent_bits = 9', "weight bits must be 2 to 8, not 9"),
        ('[[passes]]\npass = "rtn"\nlayer_bits = { fc = 16 }', "weight bits must be 2 to 8, not 16"),
        ('[[passes]]\npass = "rtn"\nblock_size = 0', "block_size must be at least 1, not 0"),
        ('[[passes]]\npass = "rtn"\nscale = "max"', "scale must be one of 'mse', 'absmax', not 'max'"),
        ('[[passes]]\npass = "activation_ranges"\nmethod = 3', "method must be one of 'mse', .* not 3"),
        ('[[passes]]\npass = "activation_ranges"\npercentile = 40', "percentile must be above 50 .* not 40"),
        ('[[passes]]\npass = "smoothquant"\nalpha = "best"', "alpha cannot be 'best'"),
        ('[[passes]]\npass = "smoothquant"\nalpha = 2', "alpha must be 0 to 1 or 'search', not 2.0"),
        ('[[passes]]\npass = "awq"\nfactors = [1, "2"]', "factors cannot be"),
        ('[[passes]]\npass = "equalize"\niterations = 0', "iterations must be at least 1, not 0"),
        (
            'storage = "int3"\n' + ONE_PASS,
            "f.toml: storage 'int3' is not one of cast, packed, int8,",
        ),
        ("storage = 4\n" + ONE_PASS, "f.toml: storage 4 is not one of"),
        ("limit = 0\n" + ONE_PASS, "f.toml: limit must be at least 1, not 0"),
        ('limit = "all"\n' + ONE_PASS, "f.toml: limit cannot be 'all'"),
        ("name = 3\n" + ONE_PASS, "f.toml: name cannot be 3"),
        ("preprocess = 3\n" + ONE_PASS, "f.toml, preprocess: expected a table, not 3"),
        ('[preprocess]\nmean = ["a"]\n' + ONE_PASS, r"f.toml, preprocess: mean cannot be \['a'\]"),
    ],
)
def test_refusals_name_the_place_and_the_value(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, "f.toml")


@pytest.mark.parametrize("line", ["mean = [0.5, 0.5]", "std = [0]", "resize = 0", "crop = 9\nresize = 3"])
def test_preprocessing_that_cannot_be_meant(line: str) -> None:
    with pytest.raises(RecipeError, match=rf"f\.toml, preprocess: {line.split(maxsplit=1)[0]} "):
        parse_recipe(f"[preprocess]\n{line}\n{ONE_PASS}", "f.toml")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[[passes]]\npass = ["gptq"]', id="pass is a list"),
        pytest.param('[[passes]]\npass = "gptq"\ndamping = nan', id="damping is nan"),
        pytest.param('[[passes]]\npass = "gptq"\ndamping = -0.1', id="damping is negative"),
        pytest.param('[[passes]]\npass = "gptq"\nrefine = -1', id="refine is negative"),
        pytest.param(f"seed = -1\n{ONE_PASS}", id="seed is negative"),
    ],
)
def test_values_that_would_only_fail_later(text: str) -> None:
    with pytest.raises(RecipeError, match=r"f\.toml"):
        parse_recipe(text, "f.toml")


@pytest.mark.parametrize(("field", "value"), [("seed", -1), ("limit", 0)])
def test_a_recipe_made_in_python_is_checked_too(field: str, value: int) -> None:
    with pytest.raises(RecipeError, match=f"{field} must .*not {value}"):
        dataclasses.replace(RECIPES["int8"], **{field: value})  # type: ignore[arg-type]


ORDER = (
    r"the order is normalise\b.*, then fold_batchnorm\b.*\bawq\b.*, then activation_ranges\b.*"
    r", then exactly one of rtn, gptq\b.*, then bias_correction\b.*\bqat\b"
)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fold_batchnorm", "normalise", "rtn"], "normalise (pass 2) cannot come after fold_batchnorm"),
        (["activation_ranges", "smoothquant", "rtn"], "smoothquant (pass 2) cannot come after activation_ranges"),
        (["normalise", "gptq", "fold_batchnorm"], "fold_batchnorm (pass 3) cannot come after gptq"),
        (["gptq", "exclude"], "exclude (pass 2) cannot come after gptq"),
        (["rtn", "activation_ranges"], "activation_ranges (pass 2) cannot come after rtn"),
        (["normalise", "fold_batchnorm"], "no pass quantizes the weights"),
        (["rtn", "gptq"], "rtn and gptq both quantize the weights"),
    ],
)
def test_passes_in_the_wrong_order(names: list[str], message: str) -> None:
    text = "".join(f'[[passes]]\npass = "{name}"\n' for name in names)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "f.toml")
    assert re.match(re.escape(f"f.toml: {message}; ") + ORDER, str(caught.value))
    with pytest.raises(RecipeError, match="the order is"):
        Recipe("r", "", tuple(PASSES[name]() for name in names))


def test_passes_of_one_stage_stand_in_any_order() -> None:
    for steps in ((Awq(), Equalize(), Exclude(), Rtn()), (Exclude(), FoldBatchnorm(), Awq(), Gptq())):
        assert Recipe("r", "", steps).passes == steps


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int5", "no recipe is named 'int5'; did you mean 'int[48]'?.* or give a .toml file"),
        ("best", "no recipe is named 'best'; there are: int8, int8-gptq, int4, "),
        ("", "no recipe is named ''"),
    ],
)
def test_an_unknown_recipe_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        find_recipe(name)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*missing.toml: No such file"):
        find_recipe(tmp_path / "missing.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*folder.toml: Is a directory"):
        find_recipe(str(tmp_path / "folder.toml"))
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*latin.toml: it is not UTF-8 text"):
        find_recipe(tmp_path / "latin.toml")


@pytest.mark.parametrize("storage", ["matmulnbits", "dequantize"])
def test_two_levels_need_a_storage_that_is_unpacked(storage: str) -> None:
    text = f'storage = "{storage}"\n[[passes]]\npass = "gptq"\nblock_size = 16\ntwo_level = true\n'
    with pytest.raises(RecipeError, match=f"gptq: two_level scales need their weights unpacked .* storage '{storage}'"):
        parse_recipe(text, "f.toml")
    assert parse_recipe(text.replace(storage, "packed"), "f.toml").passes[0] == Gptq(block_size=16, two_level=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("two_level = true\nbits = 4", "two_level needs a block_size, such as block_size = 8"),
        ("two_level = true\nbits = 4\nblock_size = 16\nsymmetric = false", "two_level grids are symmetric"),
        ("two_level = true\nblock_size = 16\nbits = 8", "two_level is for weights of up to 4 bits, not 8"),
        ("two_level = true\nbits = 4\nblock_size = 16\nscale = 'absmax'", "two_level scales are searched"),
    ],
)
@pytest.mark.parametrize("kind", ["gptq", "rtn", "obq", "gpfq", "qronos"])
def test_two_levels_that_cannot_be(kind: str, fields: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f'[[passes]]\npass = "{kind}"\n{fields}\n', "f.toml")


@pytest.mark.parametrize("block_size", [8, 24, 48, 512])
def test_blocks_without_a_kernel_are_refused_in_the_recipe(block_size: int) -> None:
    text = f'storage = "matmulnbits"\n[[passes]]\npass = "gptq"\nblock_size = {block_size}\n'
    message = f"f.toml: gptq: MatMulNBits has no blocks of {block_size}; block_size can be one of 16, 32, 64, 128, 256"
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text, "f.toml")
    assert str(raised.value) == message
    assert parse_recipe(text.replace("matmulnbits", "cast"), "f.toml").passes[0] == Gptq(block_size=block_size)


@pytest.mark.parametrize("block_size", [16, 256, None])
def test_blocks_with_a_kernel_are_taken(block_size: int | None) -> None:
    assert Recipe("mine", "", (Gptq(block_size=block_size),), storage="matmulnbits").storage == "matmulnbits"


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


def test_a_pass_is_put_behind_those_of_its_stage() -> None:
    base = Recipe("base", "", (Normalise(), FoldBatchnorm(), ActivationRanges(), Rtn()))
    assert base.with_pass(SmoothQuant(), "mine") == dataclasses.replace(
        base, name="mine", passes=(Normalise(), FoldBatchnorm(), SmoothQuant(), ActivationRanges(), Rtn())
    )
    assert base.with_pass(BiasCorrection()).passes == (*base.passes, BiasCorrection())
    assert base.with_pass(Gptq(bits=3)).passes == (*base.passes[:-1], Gptq(bits=3))  # there is exactly one


def test_fields_of_the_layer_pass() -> None:
    recipe = RECIPES["int2-learned"]
    changed = recipe.with_solver(bits=3)
    assert changed.solver == dataclasses.replace(Gptq(bits=2, block_size=8, two_level=True), bits=3)
    assert [step for step in changed.passes if step.solver is None] == [s for s in recipe.passes if s.solver is None]
    assert RECIPES["keep"].solver is None
    assert RECIPES["keep"].with_solver(bits=3) == RECIPES["keep"]


def test_training_stands_once() -> None:
    with pytest.raises(RecipeError, match="qat can be in a recipe only once; give it more epochs"):
        Recipe("r", "", (Rtn(), Qat(), Qat()))
