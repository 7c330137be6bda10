"""Which layers a machine runs faster with float activations: `search` finds them by running the model itself."""
