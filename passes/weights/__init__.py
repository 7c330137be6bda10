"""Passes that quantize weights, and passes that refine quantized weights."""
