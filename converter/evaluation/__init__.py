"""Accuracy, agreement, size and latency of model files."""
