"""Threads that convert, as many as the system lets a process have."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ggq.threads import cores, startable

T = TypeVar("T")
R = TypeVar("R")


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


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """What a function makes of items, in their order, by several threads; a few items are taken ahead.

    Args:
        function: Releases the GIL most of the time.
        items: Taken by the calling thread.
        threads: One for each processor by default.
    """
    count = threads or cores()
    pool, flying = start_pool(count), deque[Future[R]]()
    try:
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) > count:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
