"""Models: open, export from torch, load and save."""
