"""What machine code depends on: sources, versions, the processor, settings."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys
from pathlib import Path

from blake3 import blake3

from ggq_kernels.code.processor import processor
from ggq_kernels.code.settings import FILE, own_settings

HARMLESS = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY")
"""Settings of Numba that do not change machine code."""


@functools.cache
def sources() -> str:
    """A digest of the sources of this package, 64 hexadecimal digits."""
    state = blake3()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        state.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


def settings() -> list[str]:
    """The user's settings of Numba that change machine code."""
    found = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_") and k not in HARMLESS]
    own = Path(FILE)
    if own_settings and own.is_file():  # whoever imported Numba before has it read that
        found.append(own.read_text(encoding="utf-8", errors="replace"))
    return found


def key() -> str:
    """A name for all that decides about machine code that is compiled here, 20 hexadecimal digits."""
    import llvmlite
    import llvmlite.binding as llvm

    state = blake3()
    python = f"{sys.implementation.name} {sys.version} {sys.platform} {platform.machine()}"
    versions = python, _numba_version(), llvmlite.__version__, str(llvm.llvm_version_info)
    for part in (sources(), *versions, *processor(), *settings()):
        state.update(part.encode(errors="surrogateescape") + b"\0")
    return state.hexdigest(length=10)


def _numba_version() -> str:
    """What Numba's own file says, without importing Numba (0.3 s) or importlib.metadata (20 ms)."""
    found = importlib.util.find_spec("numba")
    folder = Path(found.origin).parent if found and found.origin else Path()
    return (folder / "_version.py").read_text(encoding="utf-8")
