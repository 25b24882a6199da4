"""Families whose layers differ: windows in some, or RoPE in some."""
