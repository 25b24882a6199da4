"""What methods learn from text: statistics of the inputs of matrices, and transforms."""
