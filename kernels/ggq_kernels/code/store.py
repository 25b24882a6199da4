"""Machine code of kernels on disk: saved once, loaded by llvmlite alone, so that a start needs no Numba.

A folder's name is a digest of all that decides about the code: the sources of this package, the versions of Python,
Numba and LLVM, the processor and its features, and the user's settings of Numba. A change anywhere gives a new folder,
and the oldest ones are deleted. Each file begins with a digest of what follows; one that does not fit is as good as
none, and the kernel is compiled anew. Files that another user owns or can write, or that lie where another user can put
them (trust.py), are not loaded: they are code.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3
from platformdirs import user_cache_dir

from ggq_kernels.code import precompiled
from ggq_kernels.code.key import key
from ggq_kernels.code.processor import architecture, foreign
from ggq_kernels.code.trust import make_folder, read_own, untrusted


class ObjectCode(NamedTuple):
    """Machine code of one kernel.

    Args:
        symbol: What its entry is called in the code.
        needed: Names that the code refers to and does not define.
        code: An object file.
    """

    symbol: str
    needed: list[str]
    code: bytes


class Left(NamedTuple):
    """What is still to be compiled, where several kernels are compiled together.

    Args:
        kernels: How many; 0 at the end, also where one could not be compiled.
        total: How many there were at the beginning.
        seconds: About how long it takes from now, as fast as it went until now.
    """

    kernels: int
    total: int
    seconds: float


compile_log: list[tuple[str, float]] = []
"""Name and seconds of each kernel that this process had to compile rather than load."""
waits: list[float] = []
"""Seconds beside those: of starting processes that share the work, of saving, of waiting for what others compile."""
listeners: list[Callable[[str], None]] = []
"""Called with the name of each kernel before it is compiled."""
watchers: list[Callable[[Left], None]] = []
"""Called at the beginning, when a kernel of this process is done, and at the end."""

write_failures: list[str] = []
"""What the system said when something could not be saved."""

LOCK = threading.RLock()
"""Held while a kernel is loaded or compiled."""

UNREACHED = (
    "NRT_Free",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)
"""Functions of Numba's runtime that compiled code names where it raises an exception, which no kernel does. Without
Numba they lead to abort()."""

KEPT = 8
"""Folders of other versions, processors and settings that are kept: those used last."""

_DIGEST_BYTES = 16
_DAY = 86400.0


def cache_folder() -> Path:
    """Where this version's machine code lies: in NUMBA_CACHE_DIR where that is set, else in the user's cache folder."""
    try:
        above = os.environ.get("NUMBA_CACHE_DIR") or user_cache_dir("ggq")
    except RuntimeError:  # a user without a home
        above = os.devnull
    return Path(above).absolute() / f"kernels-{key()}"


@functools.cache
def distrust() -> str:
    """Why nothing is loaded from or saved to the folder of this process; "" where all is well."""
    return untrusted(own_folder())


@functools.cache
def own_folder() -> Path:
    """The folder of this process; where nobody can write there, everything else works."""
    folder = cache_folder()
    try:
        if folder.is_dir():
            if not untrusted(folder) and time.time() - folder.stat().st_mtime > _DAY:
                os.utime(folder)
        else:
            make_folder(folder)
            if not untrusted(folder):
                _forget_old(folder)
    except OSError:
        pass
    return folder


def _forget_old(folder: Path) -> None:
    """Delete the other versions' folders that were not used for longest; another process that still uses one
    compiles what it lacks."""
    names = (path for path in folder.parent.iterdir() if re.fullmatch(r"kernels-[0-9a-f]{20}", path.name))
    others = [path for path in names if path != folder and not path.is_symlink()]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def write(name: str, head: dict[str, Any], body: bytes = b"") -> None:
    """Save a file whole or not at all; a disk that is full is no error, since everything can be compiled again."""
    import tempfile  # 2 ms that a start needs only where something is compiled

    if distrust():
        return
    payload = json.dumps(head, separators=(",", ":")).encode() + b"\n" + body
    digest = blake3(name.encode() + b"\0" + payload).digest(length=_DIGEST_BYTES)
    try:
        number, unfinished = tempfile.mkstemp(dir=own_folder())  # mode 0600
        try:
            with os.fdopen(number, "wb") as file:
                file.write(digest + payload)
            os.replace(unfinished, own_folder() / name)
        except OSError:
            os.unlink(unfinished)
            raise
    except OSError as error:
        write_failures.append(error.strerror or str(error))


def read(name: str) -> tuple[dict[str, Any], bytes] | None:
    """What `write` has saved under a name; None when there is nothing, it is damaged, or somebody else's."""
    data = b"" if distrust() else read_own(own_folder() / name)
    digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if blake3(name.encode() + b"\0" + payload).digest(length=_DIGEST_BYTES) != digest:
        return None
    head, _, body = payload.partition(b"\n")
    found: dict[str, Any] = json.loads(head)
    return found, body


def find(name: str) -> tuple[dict[str, Any], bytes] | None:
    """What is saved under a name, in the installed wheel or by `write`; None when there is nothing."""
    return precompiled.read(name) or read(name)


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling kernels, or on waiting for processes that do."""
    return sum(seconds for _, seconds in compile_log) + sum(waits)


def save_code(kernel: str, made: ObjectCode) -> None:
    """Save a kernel under "module.function"."""
    write(f"{kernel}.kernel", {"symbol": made.symbol, "needed": made.needed}, made.code)


def load_code(kernel: str) -> int | None:
    """The address of a saved kernel; None when it is not there or cannot be linked into this process."""
    found = find(f"{kernel}.kernel")
    if found is None:
        return None
    head, code = found
    return link(ObjectCode(head["symbol"], head["needed"], code))


_engines: list[Any] = []  # the code lives as long as its engine


def link(made: ObjectCode) -> int | None:
    """The address of a kernel's code; None when it cannot be linked into this process.

    Raises:
        OSError: Kernels are compiled for another machine.
    """
    if foreign():
        raise OSError(f"NUMBA_CPU_NAME has kernels compiled for {architecture()}, which this machine cannot run")
    llvm = _llvm()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)  # the first one opens the process's symbols
    missing = [name for name in made.needed if llvm.address_of_symbol(name) is None]
    if not set(missing) <= set(UNREACHED):
        return None
    for name in missing:
        llvm.add_symbol(name, _abort())
    engine.add_object_file(llvm.ObjectFileRef.from_data(made.code))
    engine.finalize_object()
    address = int(engine.get_function_address(made.symbol))
    if not address:
        return None
    _engines.append(engine)
    return address


def is_saved(kernel: str) -> bool:
    """Whether there is code of this name, whole or not, where code is loaded from."""
    if precompiled.read(f"{kernel}.kernel") is not None:
        return True
    return not distrust() and (own_folder() / f"{kernel}.kernel").exists()


CAN_CLAIM = importlib.util.find_spec("fcntl") is not None
"""Whether processes can share the work; on Windows each compiles what it lacks."""

PATIENCE = 60.0
"""Seconds to wait for a kernel that another process compiles; one that was stopped must not stop others."""


@contextmanager
def claim(kernel: str) -> Iterator[bool]:
    """Whether it is this process that compiles a kernel: False while another one does."""
    lock = _lock(kernel)
    try:
        yield lock is not None
    finally:
        if lock is not None and lock >= 0:
            with suppress(OSError):
                os.unlink(own_folder() / f"{kernel}.lock")
            os.close(lock)


def wait_for(kernel: str) -> None:
    """Wait until another process has saved a kernel or given up, but not for ever."""
    until = time.monotonic() + PATIENCE
    while not is_saved(kernel) and time.monotonic() < until:
        with claim(kernel) as claimed:
            if claimed:  # nobody compiles it
                return
        time.sleep(0.02)


def forget_locks(kernels: Iterable[str]) -> None:
    """Delete what a process that was ended has left of its claims on kernels that are saved."""
    for kernel in filter(is_saved, kernels):
        with suppress(OSError):
            os.unlink(own_folder() / f"{kernel}.lock")


def _lock(kernel: str) -> int | None:
    """A descriptor whose lock says that this process compiles a kernel; -1 where there are no locks, None where another
    process holds it. The system lets go of the locks of a process that ends."""
    if not CAN_CLAIM:
        return -1
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        number = os.open(own_folder() / f"{kernel}.lock", flags, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    except OSError:  # a file system without locks
        os.close(number)
        return -1
    return number


@functools.cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@functools.cache
def _abort() -> int:
    library = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    return int(ctypes.cast(library.abort, ctypes.c_void_p).value or 0)


def callable_at(address: int, arguments: int, returns: bool) -> Callable[..., Any]:
    """A function of so many int64, at an address; the GIL is released while it runs."""
    result = ctypes.c_int64 if returns else None
    made: Callable[..., Any] = ctypes.CFUNCTYPE(result, *[ctypes.c_int64] * arguments)(address)
    return made
