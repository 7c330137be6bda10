"""Facts about execution providers, as data."""
