"""Names of the metrics of a conversion, shared by the terminal and the HTML page."""

__all__ = ["AGREEMENT", "FILE_SIZE", "LATENCY", "SQNR", "TOP1"]

FILE_SIZE = "File size"
TOP1 = "Top-1 accuracy"
AGREEMENT = "Agreement with float"
SQNR = "SQNR of the output"
LATENCY = "Latency of an image"
