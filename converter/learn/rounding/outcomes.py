"""Outcome of every layer while blocks are learned. It is provisional: the whole network may reject the changes."""

from collections.abc import Collection
from dataclasses import replace

from converter.learn.rounding.rounding import Outcome
from passes.report import Change

__all__ = ["BlockOutcomes"]


class BlockOutcomes:
    """For every layer: what it learned, how it was solved again, or why it did not learn.

    Args:
        float_reasons: Why layers are not quantized, by layer name.
    """

    def __init__(self, float_reasons: dict[str, str]) -> None:
        self.learned, self.solved = dict[str, Change](), dict[str, Change]()
        self.reasons = float_reasons

    def record(self, outcome: Outcome | str, inside: Collection[str]) -> None:
        """Record the outcome of a block for the layers inside it. A string says why the block did not learn."""
        if isinstance(outcome, str):
            self.reasons |= dict.fromkeys(inside, outcome)
            return
        judged = f"{outcome.before_db:.2f} -> {outcome.after_db:.2f} dB on held-out samples"
        if not outcome.improved:
            reason = f"learning gained nothing ({outcome.before_db:.2f} dB on held-out samples)"
            self.reasons |= dict.fromkeys(inside, reason)
            return
        size = "" if len(inside) == 1 else f" with {len(inside) - 1} more"
        change = Change(f"learned{size}, {outcome.moved} codes changed, {judged}", outcome.before_db, outcome.after_db)
        self.learned |= dict.fromkeys(inside, change)

    def reject(self, reason: str) -> None:
        """Discard all changes. Layers that had learned get ``reason``; the others keep their own reasons."""
        self.reasons |= dict.fromkeys(self.learned, reason)
        self.learned.clear()
        self.solved.clear()

    def changed(self) -> dict[str, Change]:
        """The layers that changed, and how."""
        changes = dict(self.learned)
        for name, change in self.solved.items():
            if name in self.learned:
                changes[name] = replace(changes[name], what=f"{changes[name].what}, {change.what}")
            else:
                changes[name] = replace(change, what=f"{change.what}, {self.reasons[name]}")
        return changes

    def skipped(self) -> dict[str, str]:
        """The layers that did not change, and why."""
        return {name: why for name, why in self.reasons.items() if name not in self.solved}
