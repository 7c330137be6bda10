"""Graphs with structures of files that people ship. Each stands beside or between layers that can be quantized."""
