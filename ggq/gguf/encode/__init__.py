"""Weights as blocks of GGUF types: a search for the scales, minimums and codes of least weighted squared error."""
