"""Rewrites that give graphs of all exporters the same form."""
