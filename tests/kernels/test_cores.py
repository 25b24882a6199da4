"""How many threads are started on machines that are not here: what their Linux lists of processors and groups, as
published of each, laid out in a folder."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ggq_kernels.run import cores

CPUS = "sys/devices/system/cpu"
Machine = Callable[[Iterable[int], dict[str, str]], tuple[int, int]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Processors and cores counted, of a machine with these files, by a process that may run on some processors."""

    def counted(allowed: Iterable[int], files: dict[str, str]) -> tuple[int, int]:
        monkeypatch.setattr("os.sched_getaffinity", lambda process: set(allowed), raising=False)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        return cores.available_cores(), cores.physical_cores(tmp_path)

    return counted


def pairs(count: int, apart: int = 1) -> dict[str, str]:
    """Cores of two hardware threads: neighbours "0-1" as Intel's desktops have them, or "0,64" as servers do."""
    listed = {}
    for core in range(count):
        one = core if apart > 1 else 2 * core
        for cpu in (one, one + apart):
            text = f"{one},{one + apart}" if apart > 1 else f"{one}-{one + 1}"
            listed[f"{CPUS}/cpu{cpu}/topology/thread_siblings_list"] = text
    return listed


def singles(cpus: Iterable[int]) -> dict[str, str]:
    return {f"{CPUS}/cpu{cpu}/topology/thread_siblings_list": str(cpu) for cpu in cpus}


def capacities(*found: int) -> dict[str, str]:
    return {f"{CPUS}/cpu{cpu}/cpu_capacity": str(capacity) for cpu, capacity in enumerate(found)}


def test_two_sockets_of_64_cores(machine: Machine) -> None:
    """EPYC, 2 nodes of 64 cores: 0-63,128-191 and 64-127,192-255."""
    tree = pairs(128, apart=128)
    assert machine(range(256), tree) == (256, 128)
    assert machine([*range(64), *range(128, 192)], {}) == (128, 64)  # numactl --cpunodebind=0
    assert machine(range(128, 256), {}) == (128, 128)  # the second threads alone are as many cores


def test_eight_nodes(machine: Machine) -> None:
    """Xeon 7500 in eight sockets: node n has cpus 8n to 8n + 7 and 64 more than these."""
    assert machine(range(128), pairs(64, apart=64)) == (128, 64)
    assert machine([*range(8, 16), *range(72, 80)], {}) == (16, 8)


def test_a_cpuset_that_cuts_cores_in_two(machine: Machine) -> None:
    assert machine({0, 1, 2, 66, 67}, pairs(64, apart=64)) == (5, 4)


def test_cores_of_two_kinds_by_intel(machine: Machine) -> None:
    """Core Ultra 9 185H: 6 cores of two threads, 8 efficient ones, 2 of low power; newer systems tell how fast."""
    tree = pairs(6) | singles(range(12, 22))
    tree |= {"sys/devices/cpu_core/cpus": "0-11", "sys/devices/cpu_atom/cpus": "12-21"}
    assert machine(range(22), tree) == (22, 16)
    assert machine(range(12), {}) == (12, 6)
    slow = capacities(*[1024] * 12, *[600] * 8, *[190] * 2)
    assert machine(range(22), slow) == (22, 14)


def test_cores_of_two_kinds_by_arm(machine: Machine) -> None:
    """Four of capacity 381 and two of 1024 (Juno), 459 beside 1024; and one that is hardly there."""
    assert machine(range(6), singles(range(6)) | capacities(381, 381, 381, 381, 1024, 1024)) == (6, 6)
    assert machine(range(8), singles(range(8)) | capacities(*[459] * 4, *[1024] * 4)) == (8, 8)
    assert machine(range(4), capacities(1024, 1024, 1024, 100)) == (4, 3)


def test_a_machine_that_says_nothing(machine: Machine) -> None:
    assert machine(range(96), {}) == (96, 96)
    assert machine({5}, {f"{CPUS}/cpu5/cpu_capacity": "0", "proc/self/cgroup": "not as expected"}) == (1, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", 8), ("400000 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("400000 0", 8), ("", 8)],
)
def test_version_2_in_a_container(machine: Machine, text: str, expected: int) -> None:
    """It sees its own group where groups are mounted; quotas are rounded up."""
    tree = singles(range(8)) | {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": text}
    assert machine(range(8), tree) == (8, expected)


def test_version_2_groups_within_groups(machine: Machine) -> None:
    """A unit of systemd in a slice: the least of their limits counts; the mount's own folder has none."""
    group = "sys/fs/cgroup/system.slice"
    tree = singles(range(8)) | {"proc/self/cgroup": "0::/system.slice/ggq.service", f"{group}/cpu.max": "600000 100000"}
    assert machine(range(8), tree) == (8, 6)
    assert machine(range(8), {f"{group}/ggq.service/cpu.max": "max 100000"}) == (8, 6)
    assert machine(range(8), {f"{group}/ggq.service/cpu.max": "200000 100000"}) == (8, 2)
    assert machine(range(8), {f"{group}/other.service/cpu.max": "100000 100000"}) == (8, 2)


def test_version_2_seen_from_outside_of_its_namespace(machine: Machine) -> None:
    tree = {"proc/self/cgroup": "0::/../../other", "sys/fs/cgroup/cpu.max": "300000 100000"}
    assert machine(range(8), singles(range(8)) | tree) == (8, 3)


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("150000", 2), ("0", 8)])
@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/docker/0a1b", "cpu"),  # mounted where the container's own group is
        ("/docker/0a1b", "cpu/docker/0a1b"),
        ("/system.slice/ggq.service", "cpu,cpuacct/system.slice/ggq.service"),
        ("/kubepods/burstable/pod7/c9", "cpu,cpuacct/kubepods/burstable"),
    ],
)
def test_version_1(machine: Machine, path: str, folder: str, quota: str, expected: int) -> None:
    text = f"12:memory:/elsewhere\n4:cpu,cpuacct:{path}\n1:name=systemd:/init.scope\n0::/init.scope"
    group = f"sys/fs/cgroup/{folder}"
    tree = {"proc/self/cgroup": text, f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": "100000"}
    assert machine(range(8), singles(range(8)) | tree) == (8, expected)


def test_a_quota_leaves_the_fast_cores(machine: Machine) -> None:
    tree = singles(range(6)) | capacities(200, 200, 1024, 1024, 1024, 1024)
    assert machine(range(6), tree) == (6, 4)
    assert machine(range(6), {"sys/fs/cgroup/cpu.max": "300000 100000"}) == (6, 3)


def taken(speeds: list[float], tiles: int = 512) -> float:
    """When the last thread is done with an operation, each taking what linear.py and calls.py have it take, the slowest
    first, which is the worst that can happen."""
    threads = len(speeds)
    shares, least = threads + threads // 2, max(2, tiles // (16 * threads) * 2)
    free, first, end = [(0.0, -i) for i in range(threads)], 0, 0.0
    heapq.heapify(free)
    while first < tiles:
        now, thread = heapq.heappop(free)
        size = min(max((tiles - first) // shares // 2 * 2, least), tiles - first)
        first += size
        heapq.heappush(free, (now + size / speeds[-thread], thread))
        end = max(end, now + size / speeds[-thread])
    return end


@pytest.mark.parametrize("fast", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("slow", [0, 2, 4, 8, 16])
@pytest.mark.parametrize("speed", [0.1, 0.2, 0.3, 0.4, 0.6])
def test_as_many_as_are_done_soonest(fast: int, slow: int, speed: float) -> None:
    """No other number of threads would be a sixth faster, by a simulation of what they take."""
    speeds = [1.0] * fast + [speed] * slow
    best = min(taken(speeds[:count]) for count in range(1, len(speeds) + 1))
    assert taken(speeds[: cores.worth_starting(speeds)]) <= best * 7 / 6
