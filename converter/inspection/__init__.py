"""What a quantized file holds, layer by layer."""
