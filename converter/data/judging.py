"""Samples that judge a file: calibration data that the conversion does not see."""

from dataclasses import dataclass

from converter.data.dataset import Dataset

__all__ = ["Judging"]


@dataclass(frozen=True)
class Judging:
    """How many of the samples judge and do not calibrate. Samples beyond the limit of those that calibrate come first.

    Attributes:
        most: Largest number of samples that judge.
        share: One sample in so many judges, if there are not enough beyond the limit.
        fewest: With fewer samples, all calibrate and none judges.
        by_labels: Whether the labels count, so that they must be classes of the model.
    """

    most: int
    share: int
    fewest: int = 2
    by_labels: bool = False

    def split(self, data: Dataset, limit: int, seed: int) -> tuple[Dataset, Dataset | None]:
        """Split data into samples that calibrate, at most ``limit``, and samples that judge. None: there are none."""
        count = len(data)
        held = min(self.most, max(1, count // self.share)) if count >= max(self.fewest, 2) else 0
        calibrating = min(limit, count - held)
        if calibrating == count:
            return data, None
        fit, rest = data.split(calibrating, seed)
        return fit, rest.limit(self.most, seed)
