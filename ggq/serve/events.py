"""Answers that last: server-sent events, and work that ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ggq.errors import GGQError
from ggq.serve.errors import ApiError, from_exception

log = logging.getLogger("ggq.serve")
T = TypeVar("T")

PING = ": ping\n\n"


def event(data: Mapping[str, Any], name: str | None = None) -> str:
    """One event, with a name where the interface wants one."""
    text = json.dumps(data, separators=(",", ":"))
    return f"data: {text}\n\n" if name is None else f"event: {name}\ndata: {text}\n\n"


def progress(done: int, total: int) -> str:
    """A comment about the prompt, which clients of the interface skip and the page of this server reads."""
    return f": progress {done}/{total}\n\n"


class EventStream(Response):
    """Sends events until they end or nobody reads; an exception becomes the last event.

    Args:
        events: Texts of events and comments.
        failed: The last event of what went wrong.
        close: Called when all is over, however it ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[str], failed: Callable[[ApiError], str], close: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(None, 200, {"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._failed, self._close = events, failed, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        gone = asyncio.ensure_future(_gone(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)
            await self._events.aclose()  # type: ignore[attr-defined]
            self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for text in self._events:
                await send({"type": "http.response.body", "body": text.encode("ascii"), "more_body": True})
        except OSError:  # nobody reads
            return
        except Exception as problem:
            tell(problem)
            text = self._failed(from_exception(problem))
            await send({"type": "http.response.body", "body": text.encode("ascii"), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def while_wanted(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What some work gives; it is cancelled when the client has left.

    Raises:
        ApiError: 499, nobody reads the answer.
    """
    gone = asyncio.ensure_future(_gone(request.receive))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(499, "the client has left")
    finally:
        for task in (gone, working):
            task.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


def tell(problem: BaseException) -> None:
    """Log what is a mistake of the server."""
    if not isinstance(problem, ApiError | GGQError | MemoryError):
        log.error("unexpected %s", type(problem).__name__, exc_info=problem)
    elif from_exception(problem).status >= 500:
        log.warning("%s", " ".join(str(problem).split()))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
