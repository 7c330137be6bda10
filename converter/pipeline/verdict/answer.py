"""A verdict: one word and one sentence for each question that decides whether a file is deployed."""

from dataclasses import dataclass
from typing import Any

from converter.display.json_values import fields_as_json

__all__ = ["BAD", "EQUAL", "EXCELLENT", "GOOD", "LOOK", "NO", "QUESTIONS", "UNKNOWN", "YES", "Answer", "Verdict"]

EXCELLENT, GOOD, LOOK, BAD = "excellent", "good", "look at it", "bad"
YES, NO, EQUAL, UNKNOWN = "yes", "no", "about equal", "not known"
QUESTIONS = {"accurate": "Accurate enough?", "smaller": "Smaller?", "faster": "Faster here?"}
"""Question of each answer, by its field of `Verdict`."""


@dataclass(frozen=True)
class Answer:
    """Answer to one question.

    Attributes:
        word: One of the words above.
        why: Why, in one sentence with the figures.
    """

    word: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """Verdict on a quantized file.

    Attributes:
        accurate: Whether it is accurate enough: excellent, good, look at it, bad or not known.
        smaller: Whether it is smaller than the float model: yes, no or about equal.
        faster: Whether it is faster on this machine: yes, no, about equal or not known.
        advice: What to try next, one sentence each. Empty if there is nothing better to try.
    """

    accurate: Answer
    smaller: Answer
    faster: Answer
    advice: tuple[str, ...] = ()

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Return question, word and sentence of every answer."""
        answers = ((question, getattr(self, name)) for name, question in QUESTIONS.items())
        return tuple((question, each.word, each.why) for question, each in answers)

    def lines(self) -> tuple[str, ...]:
        """Return one line for every answer and for every advice."""
        answers = [f"{question} {word}: {why}" for question, word, why in self.rows()]
        return (*answers, *(f"Next: {each}" for each in self.advice))

    def to_json(self) -> dict[str, Any]:
        """Return every field as a JSON value."""
        return fields_as_json(self)
