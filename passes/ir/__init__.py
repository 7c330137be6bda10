"""The model that passes work on, and its view of layers."""
