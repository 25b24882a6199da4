"""Mixed precision under a budget."""
