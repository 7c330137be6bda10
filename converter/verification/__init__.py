"""Checks that a file gives the same results on its target as on the CPU."""
