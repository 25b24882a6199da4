"""Quantizing and writing, tensor by tensor."""
