"""What a conversion is judged by, in the words of the terminal and of the page."""

__all__ = ["AGREEMENT", "FILE_SIZE", "LATENCY", "SQNR", "TOP1"]

FILE_SIZE = "File size"
TOP1 = "Top-1 accuracy"
AGREEMENT = "Agreement with float"
SQNR = "SQNR of the output"
LATENCY = "Latency of an image"
