"""Section that opens the page: is the file accurate enough, smaller and faster, and what to try next."""

from collections.abc import Mapping
from typing import Any

from converter.pipeline.verdict.answer import QUESTIONS
from converter.report.page.section import Section

__all__ = ["verdict"]

_KINDS = {"excellent": "fine", "good": "fine", "yes": "fine", "look at it": "doubt", "bad": "poor", "no": "poor"}


def verdict(facts: Mapping[str, Any]) -> Section:
    """Build the list of questions with their answers."""
    given = facts["verdict"]
    rows = [
        (question, given[name]["word"], _KINDS.get(given[name]["word"], ""), given[name]["why"])
        for name, question in QUESTIONS.items()
    ]
    return Section("verdict", "Verdict", {"rows": rows})
