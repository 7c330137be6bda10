"""onnxruntime sessions, and timing them."""
