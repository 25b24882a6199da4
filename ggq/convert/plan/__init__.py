"""What a conversion would write, worked out from headers alone."""
