"""Threads that convert, as many as the system lets a process have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any


class Alone(Executor):
    """Does the work where it is submitted: where no thread can be started."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """See `concurrent.futures.Executor`; the future has its result already."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def start_pool(threads: int, name: str = "ggq-convert") -> Executor:
    """A pool of so many threads, or of those that can be started: the system may limit them.

    Args:
        threads: At most, from 1 on.
        name: What the threads' names begin with.
    """
    started, enough = list[threading.Thread](), threading.Event()
    try:
        for _ in range(threads):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    enough.set()
    for thread in started:
        thread.join()
    return ThreadPoolExecutor(len(started), thread_name_prefix=name) if started else Alone()
