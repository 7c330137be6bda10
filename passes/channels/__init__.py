"""Whole channels removed from a graph: which can go, which go, and the smaller graph."""
