"""Read the plan of a sweep from TOML.

    recipes = ["int8", { recipe = "int4", bits = [3, 4] }]
    targets = ["cpu", "qnn"]
    calibration = "photos/"
    evaluation = "validation/"

    [preprocess]
    resize = 256

    [[models]]
    model = "model.onnx"

What a model does not say itself is that of the file. Paths are relative to the current folder, as in commands.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.data.preprocess import Preprocess
from converter.model_io.open import ExportOptions
from converter.pipeline.settings import Settings
from converter.recipes.toml_fields import build, nearest
from converter.sweeps.plan import SweepModel, SweepPlan, SweepRecipe
from converter.targets.catalog import DEFAULT_TARGET
from passes.errors import ConvertError, UsageError

__all__ = ["read_plan"]

_SETTINGS = ("limit", "seed", "metric", "deterministic", "timing", "memory_budget", "min_sqnr", "measure_speed")
"""Settings that a file may have."""
_SHARED = ("calibration", "evaluation", "preprocess", "exclude")
_OWN = (*_SHARED, "model", "name", "weights", "input_shape", "tolerance")
_FIELDS = ("models", "recipes", "targets", "bits", *_SHARED, *_SETTINGS)


def read_plan(path: str | Path) -> SweepPlan:
    """Read a plan.

    Raises:
        UsageError: The file cannot be read, is not TOML, or has a field that does not exist or has a wrong value.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"cannot read the sweep {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the sweep {path} is not TOML: {error}") from error
    try:
        return _plan(content, str(path))
    except UsageError:
        raise
    except ConvertError as error:  # of a table whose fields are checked as those of recipes are
        raise UsageError(str(error)) from error


def _plan(content: Mapping[str, Any], where: str) -> SweepPlan:
    _require_known(content, _FIELDS, where)
    bits = _list(content.get("bits", []), f"{where}: bits")
    shared = {name: content[name] for name in _SHARED if name in content}
    chosen = {name: content[name] for name in _SETTINGS if name in content}
    models = [
        _model(each, shared, f"{where}, model {index + 1}")
        for index, each in enumerate(_list(content.get("models", []), f"{where}: models"))
    ]
    recipes = [
        _recipe(each, bits, f"{where}, recipe {index + 1}")
        for index, each in enumerate(_list(content.get("recipes", []), f"{where}: recipes"))
    ]
    targets = _list(content.get("targets", [DEFAULT_TARGET]), f"{where}: targets")
    metric = chosen.pop("metric", None)
    if metric is not None and not isinstance(metric, str):
        raise UsageError(f"{where}: metric is a text, not {metric!r}")
    settings = dataclasses.replace(build(Settings, {"timing": True, **chosen}, where), metric=metric)
    return SweepPlan(tuple(models), tuple(recipes), tuple(targets), settings)


def _model(given: Any, shared: Mapping[str, Any], where: str) -> SweepModel:
    own = {"model": given} if isinstance(given, str) else given
    if not isinstance(own, dict) or "model" not in own:
        raise UsageError(f"{where}: {given!r} is neither the path of a model nor a table with `model`")
    _require_known(own, _OWN, where)
    values = {**shared, **own}
    values.pop("preprocess", None)
    preprocess = _preprocess(shared, where).merge(_preprocess(own, where))
    shape = values.get("input_shape")
    export = {name: values.pop(name) for name in ("weights", "input_shape", "tolerance") if name in values}
    if isinstance(shape, list):
        export["input_shape"] = tuple(shape)
    exclude = tuple(_list(values.pop("exclude", []), f"{where}: exclude"))
    for name, value in values.items():
        if not isinstance(value, str):
            raise UsageError(f"{where}: {name} is a text, not {value!r}")
    return SweepModel(**values, exclude=exclude, preprocess=preprocess, export=ExportOptions(**export))


def _preprocess(given: Mapping[str, Any], where: str) -> Preprocess:
    preprocess: Preprocess = build(Preprocess, given.get("preprocess", {}), f"{where}, preprocess")
    return preprocess


def _recipe(given: Any, bits: list[Any], where: str) -> SweepRecipe:
    if isinstance(given, str):
        return SweepRecipe(given, tuple(bits))
    if not isinstance(given, dict) or not isinstance(given.get("recipe"), str):
        raise UsageError(f"{where}: {given!r} is neither the name of a recipe nor a table with `recipe`")
    _require_known(given, [field.name for field in dataclasses.fields(SweepRecipe)], where)
    return SweepRecipe(given["recipe"], tuple(_list(given.get("bits", bits), f"{where}: bits")))


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"{where} is a list, not {value!r}")
    return value


def _require_known(given: Mapping[str, Any], known: Any, where: str) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"{where}: no field is named {name!r}; {nearest(name, known)}")
