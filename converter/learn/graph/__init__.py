"""An ONNX graph run by torch, with gradients."""
