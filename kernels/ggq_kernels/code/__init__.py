"""Compiling kernels, and keeping their machine code."""
