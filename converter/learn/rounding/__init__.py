"""Learned rounding, block by block."""
