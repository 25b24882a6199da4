"""Threads that convert, as many as the system lets a process have."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from ggq.threads import startable


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
    started = startable(threads)
    return ThreadPoolExecutor(started, thread_name_prefix=name) if started else Alone()
