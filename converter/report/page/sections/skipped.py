"""Section on layers that were not changed, and why: layers in float, and layers that a pass skipped."""

from collections.abc import Mapping
from typing import Any

from converter.report.page.section import Section

__all__ = ["skipped"]


def skipped(facts: Mapping[str, Any]) -> Section:
    """List every layer in float, and the skipped layers of each pass, grouped by reason."""
    left = [layer for layer in facts["layers"] if layer["reason"]]
    passes = []
    for step in facts["passes"]:
        reasons: dict[str, list[str]] = {}
        for layer, reason in step["skipped"].items():
            reasons.setdefault(reason, []).append(layer)
        passes.append(
            {"name": step["name"], "changed": len(step["changed"]), "reasons": reasons, "notes": step["notes"]}
        )
    return Section("skipped", "Skipped layers", {"left": left, "passes": passes})
