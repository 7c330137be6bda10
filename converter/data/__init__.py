"""Calibration and evaluation data, and their preprocessing."""
