"""How much memory this process holds, and has held."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux tells the limit of a control group, the newer and the older kind."""
UNKNOWN_MEMORY = 8 << 30
"""Bytes of memory that are assumed where the system does not say."""
MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ +(?P<path>.*)$")


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once; 0 where the system does not say.

    Linux's own record comes first: getrusage's survives exec, so it counts what the process that started this one held.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_beside(file: str | os.PathLike[str]) -> int | None:
    """Bytes of memory that this process holds now, without the pages of a mapped file, which the system takes back
    whenever it wants; None where it does not say (anywhere but on Linux)."""
    wanted, total, counted = os.path.realpath(file), 0, True
    try:
        with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if found := MAPPING.match(line):
                    counted = found["path"] != wanted
                elif counted and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
    except OSError:
        return None
    return total


def usable_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's if that is less."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return UNKNOWN_MEMORY
    for path in LIMITS:
        try:
            found = min(found, int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # another kind of system, or "max"
            continue
    return found


def release_freed_memory() -> None:
    """Give freed memory back to the system where glibc would keep it: buffers of up to 32 MB lie on its heap, of which
    60 MB were left when a model of 135 million weights was closed."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def available_memory() -> int:
    """Bytes of memory that could be used now without taking any from others: free memory and what the system caches."""
    found = usable_memory()
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found = min(found, int(line.split()[1]) * 1024)
    except (OSError, ValueError):  # not Linux: half of the machine is taken for free
        return found // 2
    return found
