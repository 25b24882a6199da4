"""Compiling several kernels at once: processes claim them one by one, and meet in the cache folder.

Numba compiles with the GIL held, and most of its time is Python, so threads would not help. While it goes on,
`store.watchers` are told how much is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from ggq_kernels.code import store
from ggq_kernels.code.processor import foreign
from ggq_kernels.code.ready import MODULES, module
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
TRIAL = 5.0
"""Seconds of work after which the pace until then says as much as those about."""
START = 1.0
"""Seconds until a new process compiles its first."""


class _Work:
    """Kernels that are missing: what is left of them is told.

    Args:
        keys: What is compiled.
        processes: How many share the work.
    """

    def __init__(self, keys: Sequence[str], processes: int) -> None:
        self._left, self._total, self._processes = dict.fromkeys(keys), len(keys), processes
        self._begun, self._foreseen = time.perf_counter(), sum(map(_seconds, keys))

    def tell(self, done: str | None = None) -> None:
        """Tell the watchers; `done` was compiled here, saved or not."""
        if not store.watchers:
            return
        self._left = {key: None for key in self._left if key != done and not store.is_saved(key)}
        rest, spent = sum(map(_seconds, self._left)), time.perf_counter() - self._begun
        whole = self._foreseen - rest
        pace = (spent + TRIAL / self._processes) / (whole + TRIAL)
        self._report(store.Left(len(self._left), self._total, rest * pace))

    def end(self) -> None:
        """Tell the watchers that nobody works at it any more."""
        self._report(store.Left(0, self._total, 0.0))

    def _report(self, left: store.Left) -> None:
        for watcher in store.watchers:
            watcher(left)


def compile_missing(keys: Sequence[str]) -> None:
    """Have kernels, "module.name" each, compiled that are not saved, with a second process where that saves time; what
    another process compiles meanwhile is waited for. What fails is left to whoever wants the kernel's address."""
    missing = sorted((key for key in dict.fromkeys(keys) if not store.is_saved(key)), key=_seconds, reverse=True)
    if not missing:
        return
    start, before = time.perf_counter(), store.compile_seconds()
    kept = not store.distrust() and os.access(store.own_folder(), os.W_OK)
    helper = _helper(missing) if kept and helps(missing) else None
    work = _Work(missing, 1 if helper is None else 2)
    work.tell()
    try:
        compile_all(missing, work)
        for key in missing if kept else ():
            if not store.is_saved(key):
                store.wait_for(key)
                work.tell()
    finally:
        work.end()
        if helper is not None:
            helper.kill()
            helper.wait()
            store.forget_locks(missing)
        store.waits.append(time.perf_counter() - start - (store.compile_seconds() - before))


def compile_all(keys: Sequence[str], work: _Work | None = None) -> None:
    """Compile kernels that are not saved by now and that no other process compiles."""
    for key in keys:
        if not store.is_saved(key):
            with store.claim(key) as claimed:
                if claimed and not store.is_saved(key):
                    _compile(key)
            if claimed and work is not None:
                work.tell(key)


def compile_behind(keys: Sequence[str]) -> None:
    """Compile kernels that are not saved by now and that nobody compiles, without a claim: whoever needs one of them
    at once compiles it, too, and waits for no process of low priority."""
    for key in sorted(dict.fromkeys(keys), key=_seconds, reverse=True):
        with store.claim(key) as free:
            pass
        if free and not store.is_saved(key):
            _compile(key)


def _compile(key: str) -> None:
    where, name = key.split(".")
    if foreign():
        getattr(MODULES[where](), name).save()
    else:
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
