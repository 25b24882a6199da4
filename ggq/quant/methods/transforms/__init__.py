"""Transforms of inputs, and chains of them."""
