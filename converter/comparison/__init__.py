"""Two models compared layer by layer, and advice on what to change."""
