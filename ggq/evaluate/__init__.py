"""How good a file is: perplexity, divergence from a reference, error per tensor."""
