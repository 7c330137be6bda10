"""Files for every target, run on the execution providers that an ordinary machine can have."""
