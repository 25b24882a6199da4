"""What this machine has and this process has used: cores, memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def physical_cores() -> int:
    """Physical cores that this process may run on, at least 1."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, os.cpu_count() or 1)
    allowed = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, len(siblings))


def _siblings(cpu: int) -> str:
    """The hardware threads of a core as Linux lists them; a name of its own where it does not say."""
    try:
        return (
            Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
        )
    except OSError:
        return f"cpu{cpu}"


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
