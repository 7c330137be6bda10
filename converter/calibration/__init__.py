"""Statistics of activations, and sequential calibration of the layers."""
