"""The demonstration and the measurements; not part of the installed package."""
