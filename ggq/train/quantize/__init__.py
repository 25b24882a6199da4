"""Fake quantizers: of matrices, and of what they are multiplied with."""
