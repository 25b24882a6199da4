"""Laid-out tensors of GGUF files, kept in the user's cache folder so that the next load maps them."""
