"""Models that are not only decoders: encoders, vectors of texts, learned positions."""
