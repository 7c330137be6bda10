"""Replacements of operators by others that have integer kernels."""
