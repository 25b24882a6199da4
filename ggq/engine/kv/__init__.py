"""The cache: a bounded pool of pages, sequences that share them, and which pages may be freed."""
