"""Processes that templates are rendered in: kept, replaced when they end, and apart from each other."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ggq.errors import ModelError, UnsupportedError
from ggq.text import template_process
from ggq.text.template import ChatTemplate

MESSAGES = [{"role": "user", "content": "a"}]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(autouse=True)
def _none_kept() -> Iterator[None]:
    template_process.stop_all()
    yield
    template_process.stop_all()


def render(source: str = "{{ messages[0].content }}") -> str:
    return ChatTemplate(source).render(MESSAGES)


def kept() -> list[int]:
    return [worker.pid for worker in template_process._idle]


def running(group: int) -> list[str]:
    """States of the processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            found += [words[0]] if int(words[2]) == group and words[0] not in "ZX" else []
    return found


def test_a_process_is_kept_and_used_again() -> None:
    assert render() == "a"
    first = kept()
    assert len(first) == 1 and render("b") == "b" and kept() == first


def test_one_that_has_ended_is_replaced() -> None:
    render()
    (first,) = kept()
    os.kill(first, signal.SIGKILL)
    assert render() == "a" and kept() != [first]


def test_one_that_ends_while_it_is_asked_is_replaced() -> None:
    render()
    worker = template_process._idle[0]
    assert worker.stdin is not None
    os.write(worker.stdin.fileno(), (2).to_bytes(8, "little") + b"{]")  # no request: it ends when it reads it
    assert render() == "a"


def test_limits_hold_for_each_request_and_leave_the_process() -> None:
    render()
    first = kept()
    with pytest.raises(ModelError, match="it was stopped for taking too much time or memory"):
        render("{% set x = 7 ** (10 ** 9) %}")
    with pytest.raises(ModelError, match="it takes too much memory"):
        render("{{ 'a' * 10**11 }}")
    assert render() == "a" and kept() == first


def test_one_that_takes_too_long_is_stopped_with_what_it_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    from ggq.text import template

    render()
    (first,) = kept()
    monkeypatch.setattr(template, "SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"it takes more than 0\.5 seconds"):
        render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert kept() == []
    until = time.monotonic() + 5
    while running(first) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(first)


def test_several_threads_have_a_process_each_and_few_are_kept() -> None:
    found = list[str]()
    threads = [threading.Thread(target=lambda k=k: found.append(render(f"{k}"))) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [str(k) for k in range(6)] and len(kept()) <= template_process.KEPT


def test_a_process_that_was_forked_starts_its_own() -> None:
    render()
    first = kept()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if render("c") == "c" and kept() != first else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0 and render() == "a" and kept() == first


def test_it_ends_with_whoever_started_it() -> None:
    worker = template_process._started()
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.close()
    assert worker.wait(10) == 0
    worker.stdout.close()


def test_without_a_fork_each_request_starts_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    assert render() == "a" and kept() == []
    with pytest.raises(ModelError, match="it was stopped"):
        render("{% set x = 7 ** (10 ** 9) %}")


def test_where_no_process_can_be_forked_it_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = "import os; os.read(0, 1 << 20)\nos.write(1, (-2).to_bytes(8, 'little', signed=True)); os.read(0, 1)"
    monkeypatch.setattr(template_process, "_command", lambda *_: [sys.executable, "-c", worker])
    with pytest.raises(UnsupportedError, match="needs a process, and none can be started"):
        render()
