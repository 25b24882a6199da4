"""The handler of faults in maps: zeros where a watched file was cut short, and every other fault as it was before."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.kit.support import run_python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's records are known")

BEGIN = """
import faulthandler, gc, mmap, os, signal, sys, tempfile
import numpy as np
from ggq_kernels.run import guard
from ggq_kernels.run.guard import Guard

def mapped(pages=4, text=b"x"):
    file = tempfile.TemporaryFile()
    file.write(text * (pages * mmap.PAGESIZE))
    file.flush()
    return file, np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

def ends(file, data, at=0):
    "Read what is there no more."
    file.truncate(0)
    return int(data[at])

P = mmap.PAGESIZE
"""


def run(script: str) -> tuple[int, list[str], str]:
    """Status, lines and problems of a process that runs it."""
    done = run_python("-c", BEGIN + script)
    told = (line for line in done.stderr.splitlines() if not line.startswith("qemu: "))  # an emulator's own words
    return done.returncode, done.stdout.splitlines(), "\n".join(told)


def test_zeros_where_a_file_was_cut_short_and_its_bytes_before() -> None:
    status, lines, problems = run(
        """
file, data = mapped()
other, untouched = mapped(text=b"y")
guards = [Guard(data), Guard(data), Guard(untouched)]
file.truncate(P + 100)
print(data[P + 99], data[P + 100], [g.lost for g in guards])  # the rest of a page is zeros without a fault
print(data[2 * P], data[4 * P - 1], data[0], [g.lost for g in guards])
file.truncate(4 * P)
file.seek(0), file.write(b"z" * (4 * P)), file.flush()
print(data[0], data[2 * P], untouched.min(), [g.lost for g in guards])  # what was lost stays lost
"""
    )
    assert (status, problems) == (0, "")
    x, y, z = b"xyz"
    assert lines == [
        f"{x} 0 [False, False, False]",
        f"0 0 {x} [True, True, False]",
        f"{z} 0 {y} [True, True, False]",
    ]


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("", ""),
        ("faulthandler.enable()", "Fatal Python error: Bus error"),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", ""),
    ],
)
def test_a_fault_elsewhere_ends_the_process_as_it_would_have(before: str, told: str) -> None:
    status, lines, problems = run(
        f"""
{before}
file, data = mapped()
other, foreign = mapped()
guard = Guard(data)
print("watched", flush=True)
ends(other, foreign)
"""
    )
    assert (status, lines) == (-signal.SIGBUS, ["watched"])
    assert told in problems and bool(problems) == bool(told)


@pytest.mark.parametrize(
    "freed", ["guard.close()", "del guard; gc.collect()", "guard.close(); guard.close(); assert not guard.lost"]
)
def test_a_range_is_watched_until_its_guard_is_gone(freed: str) -> None:
    status, lines, _ = run(
        f"""
file, data = mapped()
guard = Guard(data)
{freed}
print("freed", flush=True)
ends(file, data)
"""
    )
    assert (status, lines) == (-signal.SIGBUS, ["freed"])


@pytest.mark.parametrize(
    ("before", "status", "lines"),
    [
        ("", -signal.SIGBUS, []),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", 0, ["lives"]),
        ("signal.signal(signal.SIGBUS, lambda *_: print('handled'))", 0, ["handled", "lives"]),
    ],
)
def test_a_signal_that_a_process_sends_does_what_it_did_before(before: str, status: int, lines: list[str]) -> None:
    found = run(
        f"""
{before}
file, data = mapped()
guard = Guard(data)
os.kill(os.getpid(), signal.SIGBUS)
for i in range(1000):
    pass
print("lives")
"""
    )
    assert found[:2] == (status, lines)


def test_many_maps_are_watched_and_those_beyond_the_table_are_not() -> None:
    status, lines, problems = run(
        """
files = [mapped(1) for _ in range(3)]
guards = [Guard(files[0][1]) for _ in range(255)]
guards += [Guard(files[1][1]), Guard(files[2][1])]
print(ends(*files[1]), guards[255].lost, guards[256].lost, guards[0].lost)
guards[7].close()
again = Guard(files[2][1])
print(ends(*files[2]), again.lost, Guard(None).lost, Guard(np.zeros(0, np.uint8)).lost)
"""
    )
    assert (status, lines, problems) == (0, ["0 True False False", "0 True False False"], "")


def test_a_child_of_a_fork_is_watched_too() -> None:
    status, lines, _ = run(
        """
file, data = mapped()
guard = Guard(data)
if os.fork() == 0:
    os._exit(ends(file, data) + 10 * guard.lost)
print(os.waitstatus_to_exitcode(os.wait()[1]), guard.lost)
"""
    )
    assert (status, lines) == (0, ["10 False"])
