"""The files that are written for every target, on the execution providers that a plain machine can have."""
