"""Other quantizers, each in its own environment, on the same model and the same images."""
