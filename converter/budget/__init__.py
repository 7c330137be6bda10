"""Search for the smallest or most accurate file within a budget (recipe `auto`)."""
