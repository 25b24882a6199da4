"""Buffers: what operations read and write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Buffer:
    """A float32 matrix, one row per token of the batch (`rows` = "tokens") or per result that is wanted ("wanted")."""

    name: str
    width: int
    rows: str = "tokens"
