"""SmoothQuant, AWQ and cross-layer equalization: one mechanism that moves scales between layers."""
