"""Learning with torch, which is optional: learned rounding and quantization-aware training."""
