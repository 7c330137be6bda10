"""Metrics of text that a network reads: character and word error rates, by jiwer."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from converter.metrics.classes import select
from converter.metrics.metric import Labels, Metric, Outputs
from passes.errors import DataError

__all__ = ["Cer", "Wer"]


_UNNAMED = "\ue000"  # classes without a character are characters from here on, which no text uses


class _ErrorRate(Metric):
    """Errors of text as a percentage of the true text's length.

    The output is a sequence of scores: [n, steps, classes], or [steps, n, classes] with ``time_first``. It is decoded
    by taking the best class of each step, merging repeats and dropping the blank (greedy CTC). Labels ``y`` are texts,
    or lists of class numbers.

    Args:
        output: Name of the output. None: the first one.
        blank: Class number of the CTC blank. -1: the last class.
        alphabet: Character of each class. Without it, each class is one character of its own.
        time_first: Whether the first axis is the step.
    """

    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, output: str | None = None, blank: int = 0, alphabet: str = "", time_first: bool = False) -> None:
        self._output, self._blank, self._alphabet, self._time_first = output, blank, alphabet, time_first
        self._found: list[str] = []
        self._right: list[str] = []

    def update(self, outputs: Outputs, labels: Labels) -> None:
        found = self._texts(outputs)
        right = [self._text(each) for each in labels["y"]]
        if not self._alphabet and any(each < _UNNAMED for text in right for each in text):
            raise DataError(
                f"metric {self.name}: labels y are texts, and the character of each class is not known; write "
                f"{self.name}(alphabet='...') with one character for each class, the blank included"
            )
        if len(found) != len(right):
            raise DataError(f"metric {self.name}: {len(right)} texts for {len(found)} outputs; give one text each")
        self._found += found
        self._right += right

    def truth(self, outputs: Outputs) -> Labels:
        """Return the texts that the float model reads."""
        return {"y": self._texts(outputs)}

    def _texts(self, outputs: Outputs) -> list[str]:
        scores: NDArray[Any] = select(outputs, self._output)
        if scores.ndim != 3:
            raise DataError(
                f"metric {self.name}: the output is {list(scores.shape)}, not scores of steps [n, steps, classes]"
            )
        scores = scores.swapaxes(0, 1) if self._time_first else scores
        blank = self._blank % scores.shape[2]
        texts = []
        for best in scores.argmax(axis=2):
            merged = best[np.insert(best[1:] != best[:-1], 0, True)]
            texts.append(self._text(merged[merged != blank]))
        return texts

    def _text(self, value: Any) -> str:
        """Return a text, or the characters of class numbers."""
        if isinstance(value, str | bytes):
            return value if isinstance(value, str) else value.decode()
        codes = [int(each) for each in np.asarray(value).reshape(-1)]
        return "".join(
            self._alphabet[code] if code < len(self._alphabet) else chr(ord(_UNNAMED) + code) for code in codes
        )


class Cer(_ErrorRate):
    """Character error rate: insertions, deletions and substitutions, as a percentage of the true characters."""

    name: ClassVar[str] = "cer"

    def value(self) -> float:
        import jiwer  # an extra

        kept = [(right, found) for right, found in zip(self._right, self._found, strict=True) if right]
        if not kept:
            raise DataError(f"metric {self.name}: every true text is empty; give data on which there is text")
        return 100.0 * float(jiwer.cer([right for right, _ in kept], [found for _, found in kept]))


class Wer(_ErrorRate):
    """Word error rate: insertions, deletions and substitutions, as a percentage of the true words."""

    name: ClassVar[str] = "wer"

    def value(self) -> float:
        import jiwer  # an extra

        kept = [(right, found) for right, found in zip(self._right, self._found, strict=True) if right.strip()]
        if not kept:
            raise DataError(f"metric {self.name}: every true text is empty; give data on which there is text")
        return 100.0 * float(jiwer.wer([right for right, _ in kept], [found for _, found in kept]))
