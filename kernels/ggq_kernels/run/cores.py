"""How many threads are worth starting: what the system lets this process use."""

from __future__ import annotations

import os
from pathlib import Path

QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Where a container's share of processor time is written, by version 2 and 1 of Linux's control groups."""


def available_cores() -> int:
    """Processors, hardware threads each, that this process may run on."""
    return len(_allowed())


def physical_cores() -> int:
    """Cores that this process may run on, at least 1: hardware threads of one core count once, for they share what
    computes, and a container's share of time is not exceeded."""
    siblings = {_siblings(cpu) for cpu in _allowed()}
    return max(1, min(len(siblings), _quota()))


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """The hardware threads of a core as Linux lists them; a name of its own where it does not say."""
    try:
        place = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return place.read_text(encoding="ascii").strip()
    except OSError:
        return f"cpu{cpu}"


def _quota() -> int:
    """Processors' worth of time that a control group may use, rounded up; very many where there is no limit."""
    for files in QUOTAS:
        try:
            quota, period = " ".join(Path(file).read_text(encoding="ascii") for file in files).split()
            if quota != "max" and int(quota) > 0:
                return max(1, -(-int(quota) // int(period)))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return 1 << 30
