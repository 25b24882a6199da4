"""Compiling several kernels at once: processes claim them one by one, and meet in the cache folder.

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

SECONDS = {
    "linear_": 5.0,
    "half_blocks_": 4.0,
    "attention_": 2.5,
    "half_tiles_": 2.0,
    "tiles_": 2.0,
    "encode_": 2.0,
    "search_": 2.0,
    "quantize": 1.2,
}
"""About what kernels take, by the beginning of their names; others take OTHERS."""
OTHERS = 0.5
START = 1.0
"""Seconds until a new process compiles its first."""


def compile_missing(keys: Sequence[str]) -> None:
    """Have kernels, "module.name" each, compiled that are not saved, with a second process where that saves time; what
    another process compiles meanwhile is waited for. What fails, or is not done here, is left to whoever wants the
    kernel's address."""
    missing = sorted((key for key in dict.fromkeys(keys) if not store.is_saved(key)), key=_seconds, reverse=True)
    if not missing or not os.access(store.own_folder(), os.W_OK):
        return
    helper = _helper(missing) if helps(missing) else None
    try:
        compile_all(missing)
        for key in missing:
            if not store.is_saved(key):
                store.wait_for(key)
    finally:
        if helper is not None:
            helper.kill()
            helper.wait()
            store.forget_locks(missing)


def compile_all(keys: Sequence[str]) -> None:
    """Compile kernels that are not saved by now and that no other process compiles."""
    for key in keys:
        if not store.is_saved(key):
            with store.claim(key) as claimed:
                if claimed and not store.is_saved(key):
                    where, name = key.split(".")
                    assert getattr(module(where), name).address


def helps(keys: Sequence[str]) -> bool:
    """Whether a second process would have begun before the first is done with all but one of these."""
    spent = sorted(map(_seconds, keys))
    return sum(spent[:-1]) > START and physical_cores() > 1 and store.CAN_CLAIM and _can_start()


def _helper(keys: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """The second process; None where none can be started."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from ggq_kernels.code.together import compile_all; compile_all({list(keys)!r})"
    )
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen([sys.executable, "-c", code], stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:
        return None


def _seconds(key: str) -> float:
    name = key.partition(".")[2]
    return next((seconds for start, seconds in SECONDS.items() if name.startswith(start)), OTHERS)


def _can_start() -> bool:
    return bool(sys.executable) and not getattr(sys, "frozen", False)
