"""Tokenizers of a checkpoint that has no tokenizer.json: its other files turned into one."""
