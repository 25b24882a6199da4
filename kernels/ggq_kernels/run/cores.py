"""How many threads are worth starting: what the system lets this process use."""

from __future__ import annotations

import os
from pathlib import Path

CAPACITY, ATOM = 1024, 0.4
"""What Linux calls the capacity of the fastest core, and of it that of an efficient core of Intel's hybrid processors
where Linux does not say: its vectors of 256 bits take two steps, at a lower clock."""
FIRST_SHARE = 1 / 1.5
"""What a thread takes of an operation at first, as a part of an equal share (calls.py: SHARES)."""


def available_cores() -> int:
    """Processors, hardware threads each, that this process may run on."""
    return len(_allowed())


def physical_cores(root: Path = Path("/")) -> int:
    """Cores that are worth a thread each, at least 1: hardware threads of one core count once, for they share what
    computes; a container's share of time is not exceeded; and cores so slow that the others would wait for what they
    have begun do not count.

    Args:
        root: Where the system's files are.
    """
    hybrid, cores = _efficient(root), dict[str, float]()
    for cpu in _allowed():
        core = _siblings(cpu, root)
        cores[core] = max(cores.get(core, 0.0), _capacity(cpu, cpu in hybrid, root))
    most = max(1, min(len(cores), _quota(root)))
    return worth_starting(sorted(cores.values(), reverse=True)[:most])


def worth_starting(capacities: list[float]) -> int:
    """How many of some cores, the fastest first, finish an operation soonest.

    Threads take parts of what is left, so that all are done together, unless a slow one is not done with its first.
    """

    def seconds(count: int) -> float:
        return max(1 / sum(capacities[:count]), FIRST_SHARE / count / capacities[count - 1])

    return min(range(1, len(capacities) + 1), key=lambda count: (round(seconds(count), 9), -count), default=1)


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _read(place: Path) -> str:
    """What a file of the system holds, nothing where there is none."""
    try:
        return place.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _siblings(cpu: int, root: Path) -> str:
    """The hardware threads of a core as Linux lists them; a name of its own where it does not say."""
    return _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or f"cpu{cpu}"


def _efficient(root: Path) -> set[int]:
    """Processors that Linux lists as the efficient ones of an Intel hybrid."""
    found: set[int] = set()
    for kind in ("cpu_atom", "cpu_lowpower"):
        for part in _read(root / f"sys/devices/{kind}/cpus").split(","):
            first, _, last = part.partition("-")
            if first.isdecimal() and (last or first).isdecimal():
                found.update(range(int(first), int(last or first) + 1))
    return found


def _capacity(cpu: int, efficient: bool, root: Path) -> float:
    """How fast a core is, 1 for the fastest kind; 1 where nothing is known of it."""
    told = _read(root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity")
    if told.isdecimal() and int(told) > 0:
        return int(told) / CAPACITY
    return ATOM if efficient else 1.0


def _quota(root: Path) -> int:
    """Processors' worth of time that this process's control groups may use, rounded up; very many where there is no
    limit. Groups have limits of their own and those of the groups that they lie in."""
    own = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        own.update(dict.fromkeys(controllers.split(","), path))
    found = [1 << 30]
    for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
        for folder in _up(root / mount, own.get("", "/")):
            found += _processors(_read(folder / "cpu.max"))
    for mount in ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"):
        for folder in _up(root / mount, own.get("cpu", "/")):
            found += _processors(f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}")
    return min(found)


def _up(mount: Path, path: str) -> list[Path]:
    """A group's folder and those above it, up to where groups are mounted: only that in a container, which sees its own
    group there, whatever the path says."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        return [mount]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _processors(text: str) -> list[int]:
    """Of "quota period", the whole processors that these are; nothing where there is no limit."""
    try:
        quota, period = text.split()
        return [max(1, -(-int(quota) // int(period)))] if quota != "max" and int(quota) > 0 else []
    except (ValueError, ZeroDivisionError):
        return []
