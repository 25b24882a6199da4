"""Families whose norms subtract the mean."""
