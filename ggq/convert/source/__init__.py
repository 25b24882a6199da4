"""Where a checkpoint comes from: its files, their headers and their numbers."""
