"""Kernels that a wheel for release carries compiled: a file for each target, made by tools/release_wheel.py.

A file is the digest of all that follows (32 bytes), a line of JSON, and object files. It is taken whole or not at all:
when it is damaged, when it was made of other sources, when the user has settings of Numba that change machine code, or
on another system, kernels are compiled as from a clone.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from ggq_kernels.code.key import settings, sources
from ggq_kernels.code.processor import machine, processor
from ggq_kernels.code.targets import target_of

SUFFIX = ".kernels"
_DIGEST_BYTES = 32


class Archive(NamedTuple):
    """The saved files of one target.

    Args:
        target: Its name.
        files: Of each saved file, by its name in the cache folder: what it says in JSON, and where its code begins and
            ends in `code`.
        code: The object files, one after the other.
    """

    target: str
    files: dict[str, tuple[dict[str, Any], int, int]]
    code: memoryview


def folder() -> Path:
    """Where the files lie in an installed wheel for release; a clone has none."""
    return Path(__file__).parents[1] / "precompiled"


@functools.cache
def archive() -> Archive | None:
    """This machine's file; None where there is none that fits."""
    if sys.implementation.name != "cpython" or not sys.platform.startswith("linux") or sys.maxsize <= 1 << 32:
        return None
    if not folder().is_dir() or settings():
        return None
    cpu, listed = processor()
    target = target_of(cpu, {feature[1:] for feature in listed.split(",") if feature.startswith("+")})
    return (
        None
        if target is None or target.machine != machine()
        else load(folder() / f"{target.name}{SUFFIX}", target.name)
    )


def load(path: Path, target: str) -> Archive | None:
    """A file's contents; None when it is not there, damaged, of other sources, or of another target."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if blake3(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        return None
    end = data.index(b"\n", _DIGEST_BYTES)
    head = json.loads(data[_DIGEST_BYTES:end])
    if head["sources"] != sources() or head["target"] != target:
        return None
    files = {name: (said, start, stop) for name, (said, start, stop) in head["files"].items()}
    return Archive(target, files, memoryview(data)[end + 1 :])


def save(path: Path, target: str, files: Mapping[str, tuple[dict[str, Any], bytes]]) -> None:
    """Write a file.

    Args:
        path: Its name.
        target: The target's name.
        files: What each saved file says, and its object file or nothing.
    """
    places, at = {}, 0
    for name, (said, code) in sorted(files.items()):
        places[name] = (said, at, at + len(code))
        at += len(code)
    head = {"sources": sources(), "target": target, "files": places}
    whole = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    whole += b"".join(code for _, (_, code) in sorted(files.items()))
    path.write_bytes(blake3(whole).digest() + whole)


def read(name: str) -> tuple[dict[str, Any], bytes] | None:
    """What the cache folder's file of this name would say; None where it is not precompiled."""
    found = archive()
    if found is None or name not in found.files:
        return None
    said, start, stop = found.files[name]
    return said, bytes(found.code[start:stop])
