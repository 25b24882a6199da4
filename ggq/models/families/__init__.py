"""One file a family, which says how it differs from Llama."""
