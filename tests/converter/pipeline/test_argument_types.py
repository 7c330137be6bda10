"""Arguments of the wrong type are refused in one line that names the parameter and says what to give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import converter
from converter.qdq.weights import STORAGES
from passes.errors import ConvertError
from tests.support.networks import images, resnet

X = images(4, 3, 12, 12)
MODEL: Any = resnet()
api: Any = converter  # types are what is wrong here
INT8: Any = converter.find_recipe("int8")


def converted(**changed: Any) -> object:
    return converter.convert(**{"model": MODEL, "calibration": X} | changed)


def recipe(**changed: Any) -> object:
    return converter.Recipe(**{"name": "r", "description": "", "passes": INT8.passes} | changed)


class Undecorated(converter.GraphPass):
    """A pass without the decorator."""

    name = "undecorated"


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "model": (lambda: converted(model=5), "a model is of type int; give an .onnx file, FILE.py:FACTORY"),
    "model class": (lambda: converted(model=int), "a model is of type type; give"),
    "recipe": (lambda: converted(recipe=None), "`recipe=` is of type NoneType; give a name, a .toml file"),
    "target": (lambda: converted(target=converter.find_target("cpu")), "`target=` is of type Target; give the name"),
    "exclude": (lambda: converted(exclude="stem"), r"`exclude='stem'` is a single text; give a list"),
    "bits": (lambda: converted(bits=[("stem", 4)]), "`bits=` is of type list; give a mapping"),
    "bits of a layer": (lambda: converted(bits={"stem": "4"}), r"`bits\['stem'\]='4'` is not an integer"),
    "settings": (lambda: converted(settings={"limit": 8}), r"`settings=` is of type dict; give converter.Settings"),
    "preprocess": (lambda: converted(preprocess={"mean": 1}), "`preprocess=` is of type dict; give converter.Prep"),
    "export": (lambda: converted(export="w.npz"), "`export=` is of type str; give converter.ExportOptions"),
    "progress": (lambda: converted(progress=1), "`progress=` is of type int; give a function"),
    "limit": (lambda: api.Settings(limit=8.5), "`limit=8.5` is not an integer"),
    "input shape": (lambda: api.ExportOptions(input_shape="1,3"), "`input_shape='1,3'` is not a list of sizes"),
    "sizes": (lambda: api.ExportOptions(input_shape=(1, 2.5)), "`input_shape=2.5` is not an integer"),
    "mean": (lambda: api.Preprocess(mean=0.5), "mean 0.5 is not a list of numbers; give 1 or 3"),
    "budget": (lambda: api.convert_within(MODEL, X, 0.5), "`budget=` is of type float; give converter.Budget"),
    "max_drop": (lambda: api.Budget(max_drop="1"), "`max_drop='1'` is not a number"),
    "models": (lambda: api.evaluate("m.onnx", X), "models are of type str; give a list of models"),
    "names": (lambda: api.evaluate([MODEL], X, names=["a", "b"]), "give one name for each of the 1 models"),
    "comparison": (lambda: api.suggest(MODEL, MODEL, None, X), "`comparison=` is of type NoneType; give the res"),
    "inputs": (lambda: api.load_data(X, "m.onnx"), "`inputs=` is of type str; give converter.input_specs"),
    "input_specs": (lambda: api.input_specs("m.onnx"), "`model=` is of type str; give an onnx.ModelProto"),
    "result": (lambda: api.write_report(None, "r.json"), "`result=` is of type NoneType; give the result"),
    "storage": (lambda: recipe(storage="int4"), f"storage 'int4' is not one of {', '.join(STORAGES)}"),
    "recipe limit": (lambda: recipe(limit="8"), "limit must be at least 1, not '8'"),
    "recipe name": (lambda: recipe(name=""), "the name of a recipe must be a text, not ''"),
    "recipe preprocess": (lambda: recipe(preprocess={}), "preprocess is of type dict; give converter.Preprocess"),
    "no pass": (lambda: INT8.with_pass(None), "NoneType is not a pass; derive it"),
    "no dataclass": (lambda: INT8.with_pass(Undecorated()), "undecorated: Undecorated is not a dataclass; decorate it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_type_is_refused_in_one_line(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ConvertError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_integers_of_numpy_are_integers() -> None:
    settings = converter.Settings(limit=np.int64(4), seed=np.int32(1))  # type: ignore[arg-type]
    result = converter.convert(MODEL, X, settings=settings, bits={"stem": np.int64(4)})  # type: ignore[dict-item]
    assert (result.recipe.limit, result.recipe.seed) == (4, 1)
    assert next(layer.bits for layer in result.layers if layer.name == "stem") == 4


def test_a_list_of_passes_is_a_recipe_too() -> None:
    assert recipe(passes=[*INT8.passes]) == recipe()
