"""Search for activations that run faster in float on this machine."""
