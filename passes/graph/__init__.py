"""Passes that rewrite the float graph."""
