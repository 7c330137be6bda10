"""Grids of activations, and where they are placed."""
