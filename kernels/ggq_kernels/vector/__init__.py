"""SIMD vectors, instruction sets and register tiles."""
