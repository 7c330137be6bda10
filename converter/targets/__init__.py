"""What each execution provider accepts, as data."""
