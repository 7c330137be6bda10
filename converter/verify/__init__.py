"""Whether a file does on its target what it does on the CPU: by running it there, or by the target's written rules."""

from converter.verify.environments import Environment, find_environment
from converter.verify.rules import RULES, Rule, Violation, violations
from converter.verify.verification import Verification, verify

__all__ = [
    "RULES",
    "Environment",
    "Rule",
    "Verification",
    "Violation",
    "find_environment",
    "verify",
    "violations",
]
