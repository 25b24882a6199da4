"""How much memory this process has used."""

from __future__ import annotations

import sys
from pathlib import Path


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
