"""How many threads can be started is tried where few processes are allowed, and libraries get no more."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ggq import threads
from ggq.format import digests

resource = pytest.importorskip("resource", reason="limits of processes are POSIX's")


def allow(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """Let so many threads be started; the list holds how many are left."""
    start, left = threading.Thread.start, [count]

    def limited(self: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return left


@pytest.mark.parametrize(("count", "found"), [(0, 0), (2, 2), (5, 3)])
def test_those_that_can_be_started_are_counted_and_ended(
    monkeypatch: pytest.MonkeyPatch, count: int, found: int
) -> None:
    before = threading.active_count()
    allow(monkeypatch, count)
    assert threads.startable(3) == found and threading.active_count() == before


def test_nothing_is_tried_where_enough_are_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pids = tmp_path / "pids.max"
    pids.write_text("max\n")
    monkeypatch.setattr(threads, "PIDS", str(pids))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (-1, 60_000))
    left = allow(monkeypatch, 0)
    assert threads.all_startable() and left == [0]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (20, -1))
    assert not threads.all_startable() and left == [-1]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (-1, -1))
    pids.write_text("50\n")
    assert not threads.all_startable()
    left[0] = threads.cores()
    assert threads.all_startable() and left == [0]


def test_digests_take_one_thread_where_the_library_would_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * (digests.MANY_THREADS_FROM // 128)
    right = digests.digest_of(data)
    for able, most in ((False, 1), (True, digests.blake3.AUTO)):
        monkeypatch.setitem(digests._threads, "most", 0)
        monkeypatch.setattr(digests, "all_startable", lambda able=able: able)
        assert digests.digest_of(data) == right and digests._threads["most"] == most
        monkeypatch.setattr(digests, "all_startable", pytest.fail)  # once a process
        assert digests.digest_of(data) == right
