"""The model that passes change, and its view of layers."""
