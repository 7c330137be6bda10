"""Words that the terminal, the HTML page and messages share: metrics of a conversion, and what data consist of."""

__all__ = ["AGREEMENT", "FILE_SIZE", "LATENCY", "SQNR", "TOP1", "kind_of_samples", "samples"]

FILE_SIZE = "File size"
TOP1 = "Top-1 accuracy"
AGREEMENT = "Agreement with float"
SQNR = "SQNR of the output"
LATENCY = "Latency of a sample"


def kind_of_samples(preprocess: object) -> str:
    """Return what data consist of: "images", or "samples" if there is no preprocessing."""
    return "samples" if preprocess is None else "images"


def samples(count: int, preprocess: object) -> str:
    """Return how many samples data have. Only data with preprocessing are images.

    >>> samples(1024, None)
    '1,024 samples'
    >>> samples(12, {"resize": 256})
    '12 images'

    Args:
        count: Number of samples.
        preprocess: Preprocessing of the data, in any form. None if the data are what the model takes.
    """
    return f"{count:,} {kind_of_samples(preprocess)}"
