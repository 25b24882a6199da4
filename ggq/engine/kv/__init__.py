"""The key-value cache: pages and sequences."""
