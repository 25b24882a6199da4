"""A thread that computes steps for requests whose readers are tasks of event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from ggq.generate.request import Request, Writing
from ggq.generate.scheduler import Scheduler


class Watched:
    """A request and the task that reads it.

    Args:
        request: It is read only by that task.
        changed: Set whenever a step has computed something of it.
    """

    def __init__(self, request: Request, changed: asyncio.Event) -> None:
        self.request, self.changed = request, changed
        self.loop = asyncio.get_running_loop()
        self.seen = 0
        """Tokens of it that were computed when the task was woken last."""


class Driver:
    """Computes for a scheduler, in a thread of its own, while there is anything to compute.

    Args:
        scheduler: Calls from other threads may use it too.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._watched: dict[Request, Watched] = {}
        self._work = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ggq-driver", daemon=True)
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._watched)

    def submit(self, requests: Sequence[Request]) -> list[Watched]:
        """Take requests in; called by the task that reads them, which one event wakes for all.

        Raises:
            UsageError: The model is closed.
        """
        changed = asyncio.Event()
        watched = [Watched(request, changed) for request in requests]
        self._watched.update((each.request, each) for each in watched)
        try:
            self.scheduler.submit(requests)
        except BaseException:
            for request in requests:
                self._watched.pop(request, None)
            raise
        self._work.set()
        return watched

    def cancel(self, request: Request) -> None:
        """Compute no more of a request."""
        self._watched.pop(request, None)
        request.cancelled = True  # the thread sees it before its next step: no lock is waited for in an event loop
        self._work.set()

    def close(self) -> None:
        """Refuse what is still wanted once the step under way has ended, and end the thread."""
        self._closed = True
        self._work.set()
        self._thread.join()
        self.scheduler.close()
        self._tell()

    def _run(self) -> None:
        while not self._closed:
            self._work.clear()
            busy = self.scheduler.work()
            self._tell()
            if not busy and not self._closed:
                self._work.wait()

    def _tell(self) -> None:
        """Wake the tasks whose requests have news."""
        loops: dict[asyncio.AbstractEventLoop, list[Watched]] = {}
        for watched in list(self._watched.values()):
            request = watched.request
            finished = request.finished
            pieces = isinstance(request, Writing) and len(request.pieces) > 0
            if finished or pieces or request.computed != watched.seen:
                watched.seen = request.computed
                loops.setdefault(watched.loop, []).append(watched)
                if finished:
                    self._watched.pop(request, None)
        for loop, several in loops.items():
            try:
                loop.call_soon_threadsafe(_wake, several)
            except RuntimeError:  # the loop has ended, and its readers with it
                for watched in several:
                    self._watched.pop(watched.request, None)
                    watched.request.cancelled = True


def _wake(several: Sequence[Watched]) -> None:
    for watched in several:
        watched.changed.set()
