"""Recipes: built in, from TOML, and from the metadata of a file."""
