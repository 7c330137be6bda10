"""One conversion from a model to a quantized file."""
