"""A tokenizer for short texts, quick to start: what of a vocabulary they need, from a compact form that is kept."""
