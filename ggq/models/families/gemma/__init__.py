"""Families of Gemma."""
