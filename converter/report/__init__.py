"""Results as terminal tables, JSON and one HTML page."""
