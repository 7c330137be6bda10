"""Operators replaced by others that have integer kernels."""
