"""Sweeps: many conversions with their evaluation, which go on after an interruption."""
