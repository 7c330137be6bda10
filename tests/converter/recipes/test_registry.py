"""What can stand in a recipe: a pass with a name of its own, whose fields have a form in TOML."""

import dataclasses
from typing import Any, ClassVar

import pytest

from converter import GraphPass, Recipe
from converter.recipes.toml import dump_recipe
from passes.errors import RecipeError
from passes.weights.rtn import Rtn


@dataclasses.dataclass(frozen=True)
class _Nameless(GraphPass):
    """Has no name."""


@dataclasses.dataclass(frozen=True)
class _Doppelganger(GraphPass):
    """Has the name of a built-in pass."""

    name: ClassVar[str] = "rtn"


@dataclasses.dataclass(frozen=True)
class _Odd(GraphPass):
    """Has a field of any type."""

    name: ClassVar[str] = "odd"

    field: Any = None


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (7, "int is not a pass; derive it from GraphPass"),
        (_Nameless(), "_Nameless has no name; give it one"),
        (_Doppelganger(), "_Doppelganger has the name 'rtn' of a built-in pass"),
        (_Odd({1}), r"odd: TOML has no form for field = \{1\}"),
        (_Odd((1, None)), r"odd: TOML has no form for field = \(1, None\)"),
        (_Odd({"a": {2: "b"}}), "odd: TOML has no form for field"),
    ],
)
def test_what_cannot_stand_in_a_recipe(step: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe("r", "", (step, Rtn()))


def test_values_that_toml_has_a_form_for() -> None:
    for value in (None, 1, 0.5, True, "text", (1, "a"), {"a": (1, 2)}):
        dump_recipe(Recipe("r", "", (_Odd(value), Rtn())))
