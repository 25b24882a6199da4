"""What GGUF files of each architecture call their keys and tensors."""
