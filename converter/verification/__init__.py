"""Check that a file does on its target what it does on the CPU."""
