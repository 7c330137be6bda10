"""Facts about data, by which a pass decides whether it can use them."""

from dataclasses import dataclass

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
    """

    source: str
    count: int
    labelled: bool
    static_batch: int | None
    ranks: tuple[int, ...]
