"""Search for layers that run faster with float activations on this machine."""
