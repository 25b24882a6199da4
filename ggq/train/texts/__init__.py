"""Texts to train on: as windows of tokens, and those that the model writes itself."""
