"""Matrix products and embeddings of packed codes."""
