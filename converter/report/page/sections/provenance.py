"""Section on provenance: everything that is needed to make the file again."""

from collections.abc import Mapping
from typing import Any

import tomli_w

from converter.report.page.section import Section

__all__ = ["provenance"]


def provenance(facts: Mapping[str, Any]) -> Section:
    """List the files, the data with their digests, the versions, and the recipe as TOML."""
    used = [("Calibration", facts["calibration"]), ("Training", facts["training"])]
    if facts["metrics"] is not None:
        used.append(("Evaluation", facts["metrics"]["data"]))
    data = [(what, described) for what, described in used if described is not None]
    return Section(
        "provenance", "Recipe and provenance", {"data": data, "recipe": tomli_w.dumps(_set(facts["recipe"]))}
    )


def _set(value: Any) -> Any:
    """Return a recipe's values without those that are None. TOML has no null."""
    if isinstance(value, dict):
        return {key: _set(item) for key, item in value.items() if item is not None and item != {}}
    return [_set(item) for item in value] if isinstance(value, list | tuple) else value
