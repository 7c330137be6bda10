"""SmoothQuant, AWQ and cross-layer equalization. All of them move scales between layers."""
