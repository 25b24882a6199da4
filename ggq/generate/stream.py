"""Text as it comes: one reader's view of an answer that is being written."""

from __future__ import annotations

from collections.abc import Iterator

from ggq.generate.generation import Answer, Memory, Timing
from ggq.generate.request import Writing
from ggq.generate.scheduler import Scheduler, closed


class Stream(Iterator[str]):
    """Pieces of text as they come, for one reader, also `async for`; close it to stop early.

    `answer` holds the text, the tokens and why it ended, `timing` the seconds, both growing. Nothing is computed before
    the first piece is asked for.

    Args:
        scheduler: Where the model runs.
        answer: A fresh one.
        memory: A conversation to go on with, if any.
    """

    def __init__(self, scheduler: Scheduler, answer: Answer, memory: Memory | None = None) -> None:
        self.answer = answer
        self._scheduler, self._request = scheduler, Writing(answer, memory)
        self._begun = self._over = False

    @property
    def timing(self) -> Timing:
        """What it took so far."""
        return self._request.timing

    def __next__(self) -> str:
        piece = self._next()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> str:
        """The next piece; the event loop goes on meanwhile, and a task that is cancelled stops the stream."""
        import asyncio

        if self._request.pieces:
            piece = self._next()
        else:
            try:
                piece = await asyncio.get_running_loop().run_in_executor(None, self._next)
            except asyncio.CancelledError:
                self.close()
                raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """Stop, and free what it holds of the cache."""
        self._over = True
        self._scheduler.cancel(self._request)

    async def aclose(self) -> None:
        """The same for asynchronous readers."""
        self.close()

    def __del__(self) -> None:
        self._request.cancelled = True  # no lock is taken here, which this thread may hold; the next step sees it

    def _next(self) -> str | None:
        """The next piece; None at the end."""
        request = self._request
        if self._over:
            return None
        if self._scheduler.closed:
            raise closed()
        try:
            if not self._begun:
                self._begun = True
                self._scheduler.submit([request])
            if not request.pieces:
                self._scheduler.wait(request)
        except BaseException:
            self.close()
            raise
        if not request.pieces:
            self._over = True
            return None
        return self.answer.add(request.pieces.popleft())
