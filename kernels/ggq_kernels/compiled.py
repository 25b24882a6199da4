"""Compiling and caching: where machine code is kept, and how a kernel gets an address.

Numba's cache key knows a function's own bytecode and not that of its callees, so the folder's name carries a digest
of all sources of this package, of Numba's version and of the target; a change anywhere gives a new folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import types
from numba.core import config
from platformdirs import user_cache_dir

from ggq_kernels.isa import CPU, FEATURES

OP = types.void(types.int64, types.int64)
"""Signature of every operation of a tape: the address of its row, the address of the team's state."""


def _digest() -> str:
    state = hashlib.blake2b(digest_size=10)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    for part in (numba.__version__, llvmlite.__version__, CPU, *sorted(FEATURES)):
        state.update(part.encode() + b"\0")
    return state.hexdigest()


def cache_folder() -> Path:
    """Where this version's machine code lies: in NUMBA_CACHE_DIR where that is set, else in the user's cache folder,
    else (where nothing can be written there) in a new temporary folder that nobody else can write to."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache_dir("ggq")) / f"kernels-{_digest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    return folder if writable else Path(tempfile.mkdtemp(prefix="ggq-kernels-"))


_FOLDER = cache_folder()


class _Cached:
    """Points Numba's cache at our folder while a function is decorated, and leaves the user's own setting alone."""

    def __enter__(self) -> None:
        self.before, config.CACHE_DIR = config.CACHE_DIR, str(_FOLDER)

    def __exit__(self, *_: Any) -> None:
        config.CACHE_DIR = self.before


def inlined(function: Callable[..., Any]) -> Any:
    """A function that becomes part of the kernels that call it; it has no cache entry of its own."""
    return numba.njit(nogil=True, error_model="numpy")(function)


class compiled:
    """A cached function callable from Python, compiled or loaded on its first call; the GIL is released while it
    runs."""

    def __init__(self, signature: str) -> None:
        self.signature = signature

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        made: list[Any] = []

        @functools.wraps(function)
        def first_call(*arguments: Any) -> Any:
            if not made:
                with _LOCK, _Cached(), _Told(function.__name__) as told:
                    made.append(numba.njit(self.signature, nogil=True, cache=True, error_model="numpy")(function))
                    told.loaded = bool(made[0].stats.cache_hits)
            return made[0](*arguments)

        return first_call


compile_log: list[tuple[str, float]] = []
"""Name and seconds of each kernel that this process had to compile rather than load."""
listeners: list[Callable[[str], None]] = []
"""Called with the name of each kernel before it is compiled."""


_LOCK = threading.RLock()


class _Told:
    """Tells listeners of a kernel that is being made ready, and logs it if it was compiled."""

    def __init__(self, name: str) -> None:
        self.name, self.loaded = name, False

    def __enter__(self) -> _Told:
        if listeners and not any(_FOLDER.glob(f"**/*.{self.name}-*.nbi")):
            for listener in listeners:
                listener(self.name)
        self.start = time.perf_counter()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and not self.loaded:
            compile_log.append((self.name, time.perf_counter() - self.start))


class Op:
    """One operation of a tape: compiled, or loaded from the cache, when its address is first asked for."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.name = function, function.__name__
        self._made: Any = None
        self.__doc__ = function.__doc__

    @property
    def address(self) -> int:
        """Address of the machine code, void(int64 row, int64 team)."""
        if self._made is None:
            with _LOCK, _Cached(), _Told(self.name) as told:
                self._made = numba.cfunc(OP, cache=True, nopython=True, error_model="numpy")(self.function)
                told.loaded = bool(self._made.cache_hits)
        return int(self._made.address)


def op(function: Callable[..., Any]) -> Op:
    """Make an operation of `function(row, team)`; nothing is compiled yet."""
    return Op(function)
