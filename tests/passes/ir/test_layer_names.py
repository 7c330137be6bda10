"""Messages about a layer in a recipe that the model does not have."""

import pytest

from passes.errors import UnknownLayerError
from passes.ir.layer_names import require_known

DEEP = tuple(f"layer{stage}.{block}.conv{place}" for stage in (1, 2, 3) for block in range(9) for place in (1, 2))


def refusal(name: str, known: tuple[str, ...]) -> str:
    with pytest.raises(UnknownLayerError) as error:
        require_known([name], known, "who")
    assert error.value.layer == name
    assert str(error.value) == f"who: {error.value.refusal}"
    return error.value.refusal


def test_a_known_name_is_accepted() -> None:
    require_known(["layer2.3.conv1", DEEP[0]], DEEP, "who")


@pytest.mark.parametrize("name", ["layer2.3.cnv1", "layer2.3.conv1x"])
def test_the_nearest_name(name: str) -> None:
    assert refusal(name, DEEP) == f"no layer is named {name!r}; did you mean 'layer2.3.conv1'?"


def test_a_part_of_one_name() -> None:
    known = ("/model/stem/Conv", "/model/block/Conv")
    assert refusal("stem", known) == "no layer is named 'stem'; did you mean '/model/stem/Conv'?"


def test_several_names_in_one() -> None:
    assert refusal("stem,head", ("stem", "body", "head")) == "no layer is named 'stem,head'; name them one at a time"


def test_all_names_of_a_small_model() -> None:
    assert refusal("xyz", ("stem", "body", "head")) == "no layer is named 'xyz'; the layers are stem, body, head"


def test_the_nearest_of_many_and_how_many_more() -> None:
    said = refusal("8.con", DEEP)
    nearest = said.partition("the nearest are ")[2].split(", ")
    assert nearest[-1] == "and 48 more; `inspect` lists them"
    assert set(nearest[:-1]) == {name for name in DEEP if "8.con" in name}
