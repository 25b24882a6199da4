"""Compiling several kernels at once: a second process takes half of them, and they meet in the cache folder.

Numba compiles with the GIL held, and most of its time is Python, so threads would not help.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from ggq_kernels.code import store
from ggq_kernels.code.ready import module
from ggq_kernels.run.cores import physical_cores

SECONDS = {"linear_": 6.0, "tiles_": 2.0, "attention_": 4.0, "embed_codes": 2.0, "encode_": 2.0, "search_": 2.0}
"""About what kernels take, by the beginning of their names; others take OTHERS."""
OTHERS = 0.5
START = 1.0
"""Seconds until a new process compiles its first."""


def compile_missing(keys: Sequence[str]) -> None:
    """Have kernels, "module.name" each, compiled that are not saved, if there are two processors for it; what fails, or
    is not done here, is left to whoever wants the kernel's address."""
    mine, others = share([key for key in keys if not store.is_saved(key)])
    if not others or physical_cores() < 2 or not os.access(store.own_folder(), os.W_OK) or not _can_start():
        return
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from ggq_kernels.code.together import compile_all; compile_all({others!r})"
    )
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:  # no process, no help
        return
    try:
        compile_all(mine)
        process.wait()
    finally:
        process.kill()
        process.wait()


def compile_all(keys: Sequence[str]) -> None:
    """Compile kernels that are not saved by now."""
    for key in keys:
        if not store.is_saved(key):
            where, name = key.split(".")
            assert getattr(module(where), name).address


def share(keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """What this process compiles and what another, so that both are done at about the same time."""
    shares: tuple[list[str], list[str]] = [], []
    spent = [0.0, START]
    for key in sorted(dict.fromkeys(keys), key=_seconds, reverse=True):
        less = spent.index(min(spent))
        shares[less].append(key)
        spent[less] += _seconds(key)
    return shares


def _seconds(key: str) -> float:
    name = key.partition(".")[2]
    return next((seconds for start, seconds in SECONDS.items() if name.startswith(start)), OTHERS)


def _can_start() -> bool:
    return bool(sys.executable) and not getattr(sys, "frozen", False)
