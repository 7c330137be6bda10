"""A pass and a target of another package: by object, by name in TOML, from a file, and in `compare --act`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter import Recipe
from converter.recipes.builtin import RECIPES, find_recipe
from converter.recipes.registry import find_pass, pass_names
from converter.recipes.toml import dump_recipe, parse_recipe
from converter.targets.catalog import TARGETS, find_target, known_targets
from passes.errors import RecipeError, TargetError, UsageError
from passes.weights.gptq import Gptq
from tests.support.command_line import run
from tests.support.networks import images, resnet

PACKAGE = '''
"""A package with a pass that looks at data, and a target."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from converter import Change, GraphPass, Model, Needs, PassReport, Stats
from converter.targets.catalog import TARGETS


@dataclass(frozen=True)
class Quieten(GraphPass):
    """Scale the weight of layers whose inputs are small."""

    name: ClassVar[str] = "quieten"

    factor: float = 0.5

    def needs(self, model: Model) -> Needs:
        return Needs(channels=frozenset(model.layers()))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        layers = model.layers()
        name = next(iter(layers))
        seen = stats.channels[name]
        model.write(layers[name], model.weight(layers[name]) * self.factor, model.bias(layers[name]))
        skipped = {other: "not the first" for other in layers if other != name}
        return PassReport(self.name, {name: Change(f"saw {len(seen.absmax)} channels")}, skipped)


not_a_pass = 3
target = dataclasses.replace(TARGETS["cpu"], name="our-board")
'''
ENTRIES = """
[convert_onnx.passes]
quieten = quieten_package:Quieten
broken = no_such_module:Broken
wrong = quieten_package:not_a_pass
renamed = quieten_package:Quieten

[convert_onnx.targets]
our-board = quieten_package:target
"""
RECIPE = """
storage = "int8"

[[passes]]
pass = "normalise"

[[passes]]
pass = "quieten"
factor = 0.25

[[passes]]
pass = "activation_ranges"

[[passes]]
pass = "rtn"
bits = 8
"""
X = images(32, 3, 12, 12)


def installed(site: Path) -> None:
    """Lay out what pip lays out."""
    (site / "quieten_package.py").write_text(PACKAGE)
    info = site / "quieten_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quieten-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path in which the package is installed."""
    site = tmp_path / "site"
    site.mkdir()
    installed(site)
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("quieten_package", None)


def first_weight(model: onnx.ModelProto) -> bytes:
    return b"".join(tensor.raw_data for tensor in model.graph.initializer)


@pytest.mark.usefixtures("package")
def test_a_pass_of_another_package_is_found_by_its_name() -> None:
    kind = find_pass("quieten")
    assert kind is not None
    assert kind.__name__ == "Quieten"
    assert "quieten" in pass_names()
    assert pass_names()[0] == "normalise"


@pytest.mark.usefixtures("package")
def test_the_command_recipes_lists_it_and_imports_nothing() -> None:
    assert "Passes of other packages, for a recipe file: broken, quieten, renamed, wrong\n" in run("recipes").stdout
    assert "quieten_package" not in sys.modules


def test_without_other_packages_there_is_no_such_line() -> None:
    assert "other packages" not in run("recipes").stdout


@pytest.mark.usefixtures("package")
def test_a_pass_with_needs_works_in_all_four_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(resnet(), "m.onnx")
    Path("r.toml").write_text(RECIPE)
    from_toml = converter.convert("m.onnx", X, recipe="r.toml")
    report = next(each for each in from_toml.passes if each.name == "quieten")
    assert [change.what for change in report.changed.values()] == ["saw 3 channels"]
    assert report.skipped

    kind = find_pass("quieten")
    assert kind is not None
    base = RECIPES["int8"].passes
    by_object = Recipe("own", "", (base[0], kind(factor=0.25), *base[-2:]), storage="int8")  # type: ignore[call-arg]
    assert first_weight(converter.convert("m.onnx", X, recipe=by_object).model) == first_weight(from_toml.model)

    from_toml.save("out.onnx")
    assert find_recipe("out.onnx").passes == from_toml.recipe.passes
    again = converter.convert("m.onnx", X, recipe="out.onnx")
    assert first_weight(again.model) == first_weight(from_toml.model)

    np.savez("data.npz", x=X)
    acted = run(
        "compare", "m.onnx", "out.onnx", "--data", "data.npz", "--calibration", "data.npz", "--act", "better.onnx"
    )
    assert "better.onnx" in acted.output


@pytest.mark.usefixtures("package")
def test_without_data_it_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    with pytest.raises(UsageError, match="recipe 'r' needs calibration data"):
        converter.convert(resnet(), recipe=tmp_path / "r.toml")


@pytest.mark.usefixtures("package")
def test_a_file_of_a_package_that_is_not_installed_names_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    result = converter.convert(resnet(), X, recipe=tmp_path / "r.toml")
    result.save(tmp_path / "out.onnx")
    monkeypatch.undo()
    with pytest.raises(RecipeError, match=r"out.onnx, pass 2: no pass is named 'quieten'.*install the package"):
        find_recipe(tmp_path / "out.onnx")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken",
            r"entry point broken = 'no_such_module:Broken' of package quieten-package raised ModuleNotFoundError",
        ),
        ("wrong", r"entry point 'wrong' in convert_onnx.passes is 3, which is not a subclass of converter.Pass"),
        ("renamed", r"entry point 'renamed' in convert_onnx.passes has a pass named 'quieten'"),
    ],
)
def test_what_is_no_pass_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(RECIPE.replace("quieten", name), "r.toml")
    assert "\n" not in str(caught.value)


def test_two_packages_with_one_name_are_refused(package: Path) -> None:
    info = package / "other-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[convert_onnx.passes]\nquieten = other:Quieten\n")
    with pytest.raises(
        RecipeError, match=r"'quieten' is in group convert_onnx\.passes of other and of quieten-package"
    ):
        find_pass("quieten")


def test_the_name_of_a_built_in_pass_or_target_is_refused(package: Path) -> None:
    entries = package / "quieten_package-1.0.dist-info" / "entry_points.txt"
    entries.write_text(f"{ENTRIES}cpu = quieten_package:target\n".replace("broken =", "gptq ="))
    message = "package quieten-package offers 'gptq' in group convert_onnx.passes, which is a built-in name; rename it"
    for looked_up in (lambda: find_pass("quieten"), pass_names):
        with pytest.raises(RecipeError, match=message):
            looked_up()
    with pytest.raises(TargetError, match=r"offers 'cpu' in group convert_onnx\.targets, which is a built-in name"):
        known_targets()
    assert find_pass("gptq") is Gptq  # nothing else is looked at for a built-in name


def test_entry_points_are_looked_at_only_for_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(**_: object) -> None:
        raise AssertionError("entry points were looked at")

    monkeypatch.setattr("converter.model_io.entry_points.entry_points", asked)
    assert converter.convert(resnet(), X, recipe="int8").target == "cpu"


@pytest.mark.usefixtures("package")
def test_acting_without_the_package_is_refused_before_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = tmp_path / "r.toml", tmp_path / "data.npz"
    recipe.write_text(RECIPE)
    np.savez(data, x=X)
    onnx.save(resnet(), tmp_path / "m.onnx")
    converter.convert(tmp_path / "m.onnx", X, recipe=recipe).save(tmp_path / "out.onnx")
    monkeypatch.undo()
    monkeypatch.setattr("converter.comparison.compare.compare", lambda *_, **__: pytest.fail("it was compared"))
    monkeypatch.chdir(tmp_path)
    refused = run("compare", "m.onnx", "out.onnx", "--data", str(data), "--calibration", str(data), "--act", "b.onnx")
    assert refused.exit_code == 2
    assert "the recipe in out.onnx, pass 2: no pass is named 'quieten'" in refused.output


@pytest.mark.usefixtures("package")
def test_its_fields_survive_a_dump() -> None:
    recipe = parse_recipe(RECIPE, "r.toml")
    assert parse_recipe(dump_recipe(recipe), "again") == recipe


@pytest.mark.usefixtures("package")
def test_a_target_of_another_package() -> None:
    assert find_target("our-board").rules == find_target("cpu").rules
    assert list(known_targets()) == [*TARGETS, "our-board"]
    assert "our-board" in run("targets").output
    with pytest.raises(TargetError, match=r"no target is named 'none'; there are: .*our-board"):
        find_target("none")
