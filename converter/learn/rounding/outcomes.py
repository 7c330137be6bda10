"""What became of every layer while blocks were learned, until it is known whether any of it stays."""

from collections.abc import Collection
from dataclasses import replace

from converter.learn.rounding.rounding import Outcome
from passes.report import Change

__all__ = ["BlockOutcomes"]


class BlockOutcomes:
    """What every layer learned, how it was solved again, and why it did not learn.

    Args:
        kept: why layers are not quantized, by name.
    """

    def __init__(self, kept: dict[str, str]) -> None:
        self.learned, self.solved = dict[str, Change](), dict[str, Change]()
        self.reasons = kept

    def take(self, outcome: Outcome | str, inside: Collection[str]) -> None:
        """Note what became of a block."""
        if isinstance(outcome, str):
            self.reasons |= dict.fromkeys(inside, outcome)
            return
        judged = f"{outcome.before_db:.2f} -> {outcome.after_db:.2f} dB on held-out images"
        if not outcome.improved:
            reason = f"learning gained nothing ({outcome.before_db:.2f} dB on held-out images)"
            self.reasons |= dict.fromkeys(inside, reason)
            return
        size = "" if len(inside) == 1 else f" with {len(inside) - 1} more"
        change = Change(f"learned{size}, {outcome.moved} codes moved, {judged}", outcome.before_db, outcome.after_db)
        self.learned |= dict.fromkeys(inside, change)

    def put_back(self, reason: str) -> None:
        """Nothing has changed after all; a layer that did not learn had a reason of its own."""
        self.reasons |= dict.fromkeys(self.learned, reason)
        self.learned.clear()
        self.solved.clear()

    def changed(self) -> dict[str, Change]:
        """Layers that are no longer as they were."""
        found = dict(self.learned)
        for name, change in self.solved.items():
            if name in self.learned:
                found[name] = replace(found[name], what=f"{found[name].what}, {change.what}")
            else:
                found[name] = replace(change, what=f"{change.what}, {self.reasons[name]}")
        return found

    def skipped(self) -> dict[str, str]:
        """Layers that are, and why."""
        return {name: why for name, why in self.reasons.items() if name not in self.solved}
