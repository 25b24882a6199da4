"""How many threads can be started, for libraries that end the process when they get fewer than they want."""

from __future__ import annotations

import os
import threading

FEW = 1024
"""A limit of processes above this is taken for none."""

PIDS = "/sys/fs/cgroup/pids.max"
"""Where a container's limit of processes is written, by Linux's control groups."""


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def startable(count: int) -> int:
    """How many threads can be started, at most `count`: tried, and ended again."""
    started, enough = list[threading.Thread](), threading.Event()
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    enough.set()
    for thread in started:
        thread.join()
    return len(started)


def all_startable() -> bool:
    """Whether a thread for each processor can be started; tried only where so few processes are allowed that it may not
    be so."""
    return _limit() > FEW or startable(cores()) == cores()


def _limit() -> int:
    """Processes that this user or container may have; very many where nothing is said."""
    limits = [1 << 62]
    try:
        import resource

        limits += [limit for limit in resource.getrlimit(resource.RLIMIT_NPROC) if limit >= 0]
        with open(PIDS) as file:
            limits.append(int(file.read()))
    except (ImportError, OSError, ValueError):  # Windows, no such limit, "max"
        pass
    return min(limits)
