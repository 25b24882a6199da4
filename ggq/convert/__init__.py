"""Checkpoint in, one quantized file out: plan, refuse what cannot work, quantize, write."""
