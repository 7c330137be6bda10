"""Learned rounding's settings: what cannot be meant is refused."""

from typing import Any

import pytest

from passes.base import Stage
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers_per_block", 0, "layers_per_block must be at least 1, not 0"),
        ("steps", 0, "steps must be at least 1, not 0"),
        ("batch", -1, "batch must be at least 1, not -1"),
        ("window", 0, "window must be at least 1, not 0"),
        ("certainty", -1.0, "certainty must not be negative, not -1.0"),
        ("scale_rate", -0.1, "scale_rate must not be negative, not -0.1"),
        ("bias_rate", float("nan"), "bias_rate must not be negative, not nan"),
        ("scale_rate", float("inf"), "scale_rate must be finite, not inf"),
        ("bias_rate", float("inf"), "bias_rate must be finite, not inf"),
        ("move_share", 1.5, "move_share must be 0 to 1, not 1.5"),
        ("drop", -0.5, "drop must be 0 to 1, not -0.5"),
        ("held_out", 0.0, "held_out must be between 0 and 1, not 0.0"),
        ("held_out", 1.0, "held_out must be between 0 and 1, not 1.0"),
    ],
)
def test_invalid_settings_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        LearnedRounding(**{field: value})


def test_it_refines_the_codes_of_a_layer_pass() -> None:
    assert LearnedRounding.stage == Stage.REFINEMENT > Gptq.stage
