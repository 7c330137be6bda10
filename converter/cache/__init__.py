"""Measurements on disk: what a conversion or a search found, kept so that it is not computed twice."""
