"""The processes that templates are rendered in: one that is kept forks for each request, so that none waits for Python.

What is forked has limits of its own and ends with its request; nothing of a template stays in the process that is kept.
That one ends when it was not used for a while, or when whoever started it ends. Where a system cannot fork, each
request starts a process.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

SCRIPT = Path(__file__).with_name("template_worker.py")

NO_PROCESS = -2
"""The length that stands for a request that no process could be forked for; -1 for one that was stopped."""

KEPT = 2
"""Processes that are kept at most; more may work at once."""

_lock = threading.Lock()
_idle: list[subprocess.Popen[bytes]] = []
_owner = 0
"""The process that the idle ones belong to: what it forks must not speak to them."""


def rendered(document: bytes, seconds: float) -> bytes | None:
    """What `ggq.text.template_worker` answers a request.

    Args:
        document: The request, JSON.
        seconds: On the clock.

    Returns:
        The answer, JSON; None where it was stopped for taking too much.

    Raises:
        TimeoutError: It takes longer.
        OSError: No process can be started.
    """
    if not hasattr(os, "fork"):
        return _once(document, seconds)
    until = time.monotonic() + seconds
    worker = _taken()
    try:
        if worker is not None:
            with suppress(BrokenPipeError, EOFError):  # it has ended meanwhile
                return _asked(worker, document, until)
        worker = _started()
        return _asked(worker, document, until)
    except (BrokenPipeError, EOFError):
        return None
    finally:
        if worker is not None:
            _kept(worker)


def _once(document: bytes, seconds: float) -> bytes | None:
    try:
        done = subprocess.run(_command(), input=document, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return None if done.returncode else done.stdout


def _command(*words: str) -> list[str]:
    return [sys.executable, "-I", "-S", os.fspath(SCRIPT), *words]


def _taken() -> subprocess.Popen[bytes] | None:
    global _owner
    with _lock:
        if _owner != os.getpid():
            _idle.clear()
            _owner = os.getpid()
        while _idle:
            worker = _idle.pop()
            if worker.poll() is None:
                return worker
            _close(worker)
    return None


def _started() -> subprocess.Popen[bytes]:
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(
        _command("--keep"), stdin=pipe, stdout=pipe, stderr=nothing, bufsize=0, start_new_session=True
    )


def _asked(worker: subprocess.Popen[bytes], document: bytes, until: float) -> bytes | None:
    """Its answer; the worker is stopped where that does not come in time.

    Raises:
        TimeoutError: It did not.
        BrokenPipeError, EOFError: The worker has ended.
    """
    assert worker.stdin is not None and worker.stdout is not None
    try:
        _write(worker.stdin.fileno(), len(document).to_bytes(8, "little", signed=True) + document, until)
        size = int.from_bytes(_read(worker.stdout.fileno(), 8, until), "little", signed=True)
        if size == NO_PROCESS:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return None if size < 0 else _read(worker.stdout.fileno(), size, until)
    except BaseException:
        stop(worker)
        raise


def _write(number: int, data: bytes, until: float) -> None:
    os.set_blocking(number, False)
    rest = memoryview(data)
    while rest:
        _wait([], [number], until)
        with suppress(BlockingIOError):
            rest = rest[os.write(number, rest) :]


def _read(number: int, size: int, until: float) -> bytes:
    found = bytearray()
    while len(found) < size:
        _wait([number], [], until)
        piece = os.read(number, size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


def _wait(readable: list[int], writable: list[int], until: float) -> None:
    poll = select.poll()
    for number in readable:
        poll.register(number, select.POLLIN)
    for number in writable:
        poll.register(number, select.POLLOUT)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TimeoutError


def _kept(worker: subprocess.Popen[bytes]) -> None:
    with _lock:
        if worker.poll() is None and len(_idle) < KEPT and _owner == os.getpid():
            _idle.append(worker)
            return
    stop(worker)


def stop(worker: subprocess.Popen[bytes]) -> None:
    """Stop a worker and what it has forked."""
    with suppress(OSError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    _close(worker)


def _close(worker: subprocess.Popen[bytes]) -> None:
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()


@atexit.register
def stop_all() -> None:
    """Stop what is kept."""
    with _lock:
        workers = [] if _owner != os.getpid() else [*_idle]
        _idle.clear()
    for worker in workers:
        stop(worker)
