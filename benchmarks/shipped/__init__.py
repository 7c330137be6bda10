"""ONNX files that Python packages ship, converted and measured."""
