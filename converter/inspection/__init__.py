"""Inspection of model files, layer by layer."""
