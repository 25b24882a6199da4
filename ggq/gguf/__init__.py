"""GGUF files as models: their tensors in our schemes, their metadata as parts, their vocabularies as tokenizers."""
