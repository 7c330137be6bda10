"""What a sweep converts: models, recipes, bits and targets, each combination of them once."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from converter.data.preprocess import Preprocess
from converter.model_io.open import ExportOptions
from converter.pipeline.settings import Settings
from converter.recipes.builtin import find_recipe
from converter.recipes.overrides import with_bits
from converter.recipes.recipe import Recipe
from converter.targets.catalog import DEFAULT_TARGET, find_target
from converter.targets.target import Target
from passes.arguments import require_type, whole
from passes.errors import ConvertError, UsageError

__all__ = ["Cell", "SweepModel", "SweepPlan", "SweepRecipe", "cells_of"]

_UNFIT = re.compile(r"[^\w.+=-]+")  # characters that the name of a file does not get
_FEWEST, _MOST = 2, 8  # bits
_UNUSED = {
    "checkpoint": "each conversion would need its own",
    "cache": "the sweep keeps its work in its folder",
}


@dataclass(frozen=True)
class SweepModel:
    """One model of a sweep, with its data.

    Attributes:
        model: Path of an .onnx file, or ``FILE.py:FACTORY``.
        name: Its name in the results. Empty: the name of its file, or of its factory.
        calibration: Data that calibrate, as a path or ``FILE.py:CALLABLE``. None: there are none.
        evaluation: Data that judge, in the same forms. None: samples of ``calibration`` that do not calibrate judge.
        export: Weights and input shape of a torch model.
        preprocess: Preprocessing of uint8 data.
        exclude: Layers that stay in float.

    Raises:
        UsageError: A value is of another type.
    """

    model: str | Path
    name: str = ""
    calibration: str | Path | None = None
    evaluation: str | Path | None = None
    export: ExportOptions = ExportOptions()  # noqa: RUF009  (frozen)
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  (frozen)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_type("model", self.model, (str, Path), "a path or FILE.py:FACTORY, which a later run finds again")
        for name in ("calibration", "evaluation"):
            value = getattr(self, name)
            if value is not None:
                require_type(name, value, (str, Path), "a path or FILE.py:CALLABLE, which a later run finds again")
        file, _, factory = str(self.model).partition(".py:")
        name = self.name or (factory.partition("(")[0] if factory else Path(file).stem)
        object.__setattr__(self, "name", _UNFIT.sub("_", name).strip(".") or "model")
        object.__setattr__(self, "exclude", tuple(self.exclude))


@dataclass(frozen=True)
class SweepRecipe:
    """One recipe of a sweep.

    Attributes:
        recipe: Its name, or its .toml or .onnx file.
        bits: Bits of all weights, one conversion for each. Empty: the recipe's own.
    """

    recipe: str | Path
    bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        bits = tuple(whole("bits", each) for each in self.bits)
        object.__setattr__(self, "bits", bits)
        for each in bits:
            if not _FEWEST <= each <= _MOST:
                raise UsageError(f"`bits={each}` is not from {_FEWEST} to {_MOST}")


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep converts.

    Attributes:
        models: The models.
        recipes: The recipes. A name stands for a recipe with its own bits.
        targets: Names of the targets.
        settings: Settings of every conversion.

    Raises:
        UsageError: There is nothing to convert, or a setting makes no sense in a sweep.
    """

    models: tuple[SweepModel, ...]
    recipes: tuple[SweepRecipe, ...]
    targets: tuple[str, ...] = (DEFAULT_TARGET,)
    settings: Settings = Settings(timing=True)  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        for name, kind in (("models", SweepModel), ("recipes", SweepRecipe), ("targets", str)):
            require_type(name, getattr(self, name), (list, tuple), f"a list of {kind.__name__}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if not getattr(self, name):
                raise UsageError(f"a sweep without {name} converts nothing; give at least one")
            for each in getattr(self, name):
                require_type(name, each, kind, f"a list of {kind.__name__}")
        require_type("settings", self.settings, Settings, "converter.Settings(...)")
        for name, reason in _UNUSED.items():
            if getattr(self.settings, name) is not None:
                raise UsageError(f"`{name}=` has no effect in a sweep: {reason}; leave it out")
        if self.settings.metric is not None:
            require_type(
                "metric", self.settings.metric, str, "a name or FILE.py:CALLABLE, which a later run finds again"
            )
            bare = [each.name for each in self.models if each.evaluation is None]
            if bare:
                raise UsageError(f"`metric=` would measure nothing for {', '.join(bare)}; give `evaluation=` as well")


@dataclass(frozen=True)
class Cell:
    """One conversion of a sweep.

    Attributes:
        name: Name of its file, without the suffix.
        model: The model.
        recipe: The recipe with the sweep's bits.
        recipe_name: Name of the recipe in the results.
        bits: The bits that the sweep sets. None: the recipe's own.
        target: The target.
    """

    name: str
    model: SweepModel
    recipe: Recipe
    recipe_name: str
    bits: int | None
    target: Target


def cells_of(plan: SweepPlan) -> tuple[Cell, ...]:
    """Return the conversions of a plan, in order: by model, then recipe, bits and target.

    Raises:
        ConvertError: There is no such recipe or target, a recipe cannot have these bits, or two conversions have one
            name.
    """
    targets = [find_target(name) for name in plan.targets]
    recipes = [(find_recipe(each.recipe), bits) for each in plan.recipes for bits in each.bits or (None,)]
    found: dict[str, Cell] = {}
    for model in plan.models:
        for recipe, bits in recipes:
            for target in targets:
                parts = (model.name, recipe.name, *(() if bits is None else (f"w{bits}",)), target.name)
                name = _UNFIT.sub("_", "-".join(parts))
                if name.lower() in found:
                    raise UsageError(_twice(name, one_model=found[name.lower()].model is model))
                found[name.lower()] = Cell(name, model, _at(recipe, bits), recipe.name, bits, target)
    return tuple(found.values())


def _twice(name: str, *, one_model: bool) -> str:
    wrong = f"two conversions of the sweep are called {name}"
    if one_model:
        return f"{wrong}: a recipe, its bits or a target is there twice; leave one out"
    return f"{wrong}; give names to models: `name` in a SWEEP.toml, or `SweepModel(name=)`"


def _at(recipe: Recipe, bits: int | None) -> Recipe:
    """Return a recipe at these bits. Fewer than 8 are packed, where the recipe stores bytes.

    Raises:
        UsageError: The recipe has no such bits.
    """
    if bits is None:
        return recipe
    wrong = f"recipe {recipe.name!r} cannot have {bits} bits"
    if recipe.solver is None:
        raise UsageError(f"{wrong}: no pass of it chooses codes; leave its `bits=` out")
    try:
        changed = with_bits(recipe, bits)
        packed = recipe.storage == "int8" and bits < _MOST
        return dataclasses.replace(changed, storage="cast") if packed else changed
    except (ConvertError, TypeError, ValueError) as error:
        raise UsageError(f"{wrong}: {error}; leave its `bits=` out") from error
