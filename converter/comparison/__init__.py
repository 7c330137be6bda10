"""Layer by layer comparison of two models, and suggestions of what to change."""
