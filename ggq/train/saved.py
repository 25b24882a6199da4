"""A training on disk, so that it can be resumed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ggq.errors import UsageError
from ggq.format.paths import os_error

VERSION = 1


def save_state(place: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a state; the place holds the old one or the new one, whole.

    Args:
        place: A file.
        identity: What must be the same when it is resumed.
        state: Tensors, numbers, lists and dicts of them.
    """
    partial = place.with_name(place.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save({"version": VERSION, "identity": identity, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
    except OSError as error:
        raise os_error(error, os.fspath(place), "write") from None


def load_state(place: Path, identity: str) -> dict[str, Any]:
    """Read a state.

    Raises:
        UsageError: There is none, it is damaged, or it is of another training.
    """
    if not place.is_file():
        raise UsageError("nothing to resume", path=place, fix="run it without --resume")
    try:
        found: dict[str, Any] = torch.load(place, weights_only=True)
    except Exception as error:  # torch raises what its zip reader and its unpickler raise
        raise UsageError(f"no state of a training: {type(error).__name__}", path=place) from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise UsageError("no state of a training of this version", path=place)
    if found["identity"] != identity:
        problem = "a training of another source, text or other options"
        raise UsageError(problem, path=place, fix="give the same ones, or run it without --resume")
    return found
