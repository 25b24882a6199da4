"""GGUF files: how they are laid out, and how the numbers of each type are stored."""
