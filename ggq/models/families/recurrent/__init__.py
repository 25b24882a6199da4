"""Families some of whose layers carry a state, one file each."""
