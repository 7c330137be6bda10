"""The report of a pass: every layer once, as changed or as skipped with a reason."""

from typing import Any

import pytest

from passes.errors import QuantizationError
from passes.report import Change, PassReport, require_complete

LAYERS = ("stem", "body", "head")


def test_every_layer_once_is_complete() -> None:
    report = PassReport("clip", {"stem": Change("clipped")}, {"body": "not wide", "head": "not wide"})
    assert require_complete(report, "clip", LAYERS) is report


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (None, "clip returned NoneType and not its report; return a PassReport"),
        ({"stem": "clipped"}, "clip returned dict and not its report; return a PassReport"),
        (
            PassReport("clip"),
            r"clip does not report layer 'stem' \(and 2 more\); name it in `changed`, or in `skipped`",
        ),
        (
            PassReport("clip", {"stem": Change("")}, dict.fromkeys(LAYERS, "why")),
            "clip reports layer 'stem' as changed and as skipped; name it once",
        ),
        (
            PassReport("clip", skipped=dict.fromkeys((*LAYERS, "steam"), "why")),
            "clip reports layer 'steam', which the model does not have; leave it out",
        ),
        (
            PassReport("clip", {"stem": "clipped"}, {"body": "why", "head": "why"}),  # type: ignore[dict-item]
            r"clip has no Change for layer 'stem'; map its name to Change\(what\)",
        ),
        (
            PassReport("clip", skipped=dict.fromkeys(LAYERS, "")),
            r"clip has no reason to skip layer 'stem' \(and 2 more\); map its name to a text",
        ),
    ],
)
def test_anything_else_is_refused_with_the_name_of_the_pass(report: Any, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        require_complete(report, "clip", LAYERS)
