"""Writer and reader of quantized files."""
