"""How codes are cut into planes."""

from __future__ import annotations

PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
"""Widths of a code's planes, low bits first (as ggq/format/scheme.py; a test keeps them equal)."""
