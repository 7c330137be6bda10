"""How many channels each group keeps: measured errors of the network against measured time or products."""
