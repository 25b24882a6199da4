"""Families whose tokens see their whole text, for vectors and scores of texts."""
