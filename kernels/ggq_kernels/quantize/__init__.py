"""The quantizers' own loops."""
