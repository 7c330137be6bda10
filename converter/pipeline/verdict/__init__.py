"""Verdict on a quantized file: is it accurate enough, is it smaller, is it faster here, and what to try next."""
