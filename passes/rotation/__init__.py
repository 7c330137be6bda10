"""Orthogonal rotations between layers."""
