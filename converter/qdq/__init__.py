"""Writes quantized files, and reads them back."""
