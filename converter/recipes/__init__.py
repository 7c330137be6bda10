"""Recipes: built-in ones, and those from TOML or from the metadata of a file."""
