"""Matrices that a checkpoint keeps as codes and scales."""
