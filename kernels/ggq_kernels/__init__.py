"""Kernels of ggq, compiled by Numba: they know addresses, counts and scheme numbers, never files or models.

`ggq_kernels.run.calls` makes the rows of a tape, `ggq_kernels.run.team` runs them on threads,
`ggq_kernels.run.limits` measures the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ggq_kernels.code.settings import tidy

tidy()


def instruction_set() -> str:
    """The instruction set that the kernels are compiled for: "avx512-vnni", "avx-vnni", "avx2" or "generic"."""
    from ggq_kernels.code import ready

    return str(ready.module("isa").ISA)


def read_bandwidth(threads: int | None = None) -> float:
    """GB/s at which so many threads (by default all cores) together read memory."""
    from ggq_kernels.run.limits import read_bandwidth as measure

    return measure(threads)


def integer_peak(threads: int | None = None) -> float:
    """GOP/s of this target's integer dot product on so many threads, without memory traffic."""
    from ggq_kernels.run.limits import integer_peak as measure

    return measure(threads)


def tile_peak(threads: int | None = None) -> float:
    """GOP/s of bf16 products by tile registers on so many threads, without memory traffic; 0 where there are none."""
    from ggq_kernels.run.limits import tile_peak as measure

    return measure(threads)


def tiles() -> str:
    """What multiplies many tokens: "amx-bf16", "refused" where the processor has such tiles and the system does not
    allow them, "" where it has none."""
    from ggq_kernels.code import permission, ready

    if not ready.module("isa").AMX:
        return ""
    return "amx-bf16" if permission.tiles_allowed() else "refused"


def warmup() -> float:
    """Compile, or find compiled, every kernel that a model with int8 activations may need.

    Returns:
        Seconds spent compiling; 0 when all were there.
    """
    from ggq_kernels.code import ready, store, together
    from ggq_kernels.run import calls

    left_out = ("peaks.", *(ready.NEED_TILES if calls.bf16_from() == calls.EVERY else ()))
    keys = [key for key in ready.all_keys() if not key.endswith("_float32") and not key.startswith(left_out)]
    missing, start = [key for key in keys if not store.is_saved(key)], time.perf_counter()
    together.compile_missing(missing)
    for module, name in (key.split(".") for key in keys):
        assert getattr(ready.module(module), name).address
    return time.perf_counter() - start if missing else 0.0


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling kernels, or on waiting for processes that do."""
    from ggq_kernels.code import store

    return store.compile_seconds()


def on_compile(tell: Callable[[str], None]) -> None:
    """Have `tell` called with a kernel's name before it is compiled; kernels that are only loaded are not told."""
    from ggq_kernels.code.store import listeners

    listeners.append(tell)
