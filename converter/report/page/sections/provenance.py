"""What the file was made from and with: enough to make it again."""

from collections.abc import Mapping
from typing import Any

import tomli_w

from converter.report.page.section import Section

__all__ = ["provenance"]


def provenance(facts: Mapping[str, Any]) -> Section:
    """Files, data with their digests, versions, and the recipe as TOML."""
    used = [("Calibration", facts["calibration"]), ("Training", facts["training"])]
    if facts["metrics"] is not None:
        used.append(("Evaluation", facts["metrics"]["data"]))
    data = [(what, described) for what, described in used if described is not None]
    return Section(
        "provenance", "Recipe and provenance", {"data": data, "recipe": tomli_w.dumps(_set(facts["recipe"]))}
    )


def _set(value: Any) -> Any:
    """A recipe's values without those that are not set, which TOML has no word for."""
    if isinstance(value, dict):
        return {key: _set(item) for key, item in value.items() if item is not None and item != {}}
    return [_set(item) for item in value] if isinstance(value, list | tuple) else value
