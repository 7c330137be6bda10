"""The choice of quantized activations and of their grids."""
