"""Commands that are given texts and write none."""
