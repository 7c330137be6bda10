"""onnxruntime sessions: open, run and time models."""
