"""Commands that list what may be written in others: schemes, methods, completions."""
