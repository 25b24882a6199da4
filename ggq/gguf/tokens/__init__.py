"""The vocabularies of GGUF files: tokenizer.json of the tokenizers library from their keys, and back."""
