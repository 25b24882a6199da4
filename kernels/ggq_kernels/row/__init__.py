"""What happens to activations row by row."""
