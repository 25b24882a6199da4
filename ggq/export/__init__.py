"""Giving a file's contents back in the forms that other programs read."""
