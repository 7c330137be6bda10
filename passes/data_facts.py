"""Facts about data, by which a pass decides whether it can use them."""

from dataclasses import dataclass

from passes.errors import DataError

__all__ = ["DataFacts"]


@dataclass(frozen=True)
class DataFacts:
    """Facts about the samples that a pass would get.

    Attributes:
        source: Source of the data, as the user named it.
        count: Number of samples.
        labelled: Whether every sample has a label.
        static_batch: The fixed batch size of the model's inputs. None if they take any.
        ranks: Number of axes of every input, the batch included. An image has 4.
        alone: Whether each sample runs on its own: samples differ in shape, or share no batch.
    """

    source: str
    count: int
    labelled: bool
    static_batch: int | None
    ranks: tuple[int, ...]
    alone: bool = False

    def require_batches(self, who: str) -> None:
        """Require samples that run together, for the pass ``who``.

        Raises:
            DataError: Each sample runs on its own.
        """
        if self.alone:
            raise DataError(
                f"{self.source}: {who} learns on batches, and the samples run one at a time, because they differ in "
                "shape; use recipe int4"
            )
