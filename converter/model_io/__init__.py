"""Models opened, exported from torch, loaded and saved."""
