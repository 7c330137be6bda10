"""Other quantizers, each in an environment of its own, on the same model and the same images."""
