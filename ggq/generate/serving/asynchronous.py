"""A model for asyncio: any number of tasks ask it, and none of them holds a thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ggq.generate.generation import Answer, Piece, Timing
from ggq.generate.loading import reload
from ggq.generate.model import Model
from ggq.generate.options import Options
from ggq.generate.request import Writing
from ggq.generate.scheduler import Policy, Scheduler
from ggq.generate.serving.driver import Driver, Watched
from ggq.generate.serving.pace import Measured
from ggq.text.template import Message

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncStream(AsyncIterator[str]):
    """Pieces of text as they come, for one task; `answer` and `timing` grow with it.

    Args:
        driver: Computes it.
        request: A fresh one.
    """

    def __init__(self, driver: Driver, request: Writing) -> None:
        self.request, self._driver = request, driver
        self._watched: Watched | None = None

    @property
    def answer(self) -> Answer:
        """What was read so far."""
        return self.request.answer

    @property
    def timing(self) -> Timing:
        """What it took so far."""
        return self.request.timing

    def begin(self) -> None:
        """Have it computed from now on, before anything is read."""
        if self._watched is None:
            self._watched = self._driver.submit([self.request])[0]

    async def news(self) -> None:
        """Return after the next step that computed something of it.

        Raises:
            UsageError: The model was closed; or what is wanted does not fit into the cache even alone.
            ModelError: The model computes NaN.
        """
        self.begin()
        watched, request = self._watched, self.request
        assert watched is not None
        if not request.pieces and not request.finished:
            try:
                await watched.changed.wait()
            except asyncio.CancelledError:
                self.close()
                raise
        watched.changed.clear()
        if request.finished and request.error is not None and not request.pieces:
            raise request.error

    def take(self) -> list[Piece]:
        """The pieces that were computed and not read."""
        found = []
        while self.request.pieces:
            piece = self.request.pieces.popleft()
            self.answer.add(piece)
            found.append(piece)
        return found

    @property
    def over(self) -> bool:
        """Whether everything was read."""
        return self.request.finished and not self.request.pieces

    async def __anext__(self) -> str:
        while True:
            finished = self.request.finished  # before its pieces, of which the last may come meanwhile
            if self.request.pieces:
                return self.answer.add(self.request.pieces.popleft())
            if finished and self.request.error is None:
                raise StopAsyncIteration
            await self.news()

    def close(self) -> None:
        """Stop, and free what it holds of the cache."""
        self._driver.cancel(self.request)

    async def aclose(self) -> None:
        """The same."""
        self.close()

    def __del__(self) -> None:
        self.request.cancelled = True


class AsyncModel:
    """A model whose methods are awaited.

    Prompts that begin alike are computed once, and sequences that decode keep half of their rate while
    prompts are read.

    Args:
        model: An open model, which it closes; its scheduler has not been used yet.
        policy: How requests are weighed.
        cache_limit: Bytes of the cache that the model was loaded with, for who watches it.
    """

    def __init__(self, model: Model, policy: Policy | None = None, cache_limit: int = 0) -> None:
        self.model, self.cache_limit = model, cache_limit
        self._policy = policy or Policy(Measured(), prefixes=True)
        self._driver: Driver | None = None
        self._lock = threading.Lock()

    @classmethod
    async def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        activations: str = "int8",
        cache: str | None = None,
        interpreter: str = "numba",
        cache_bytes: int | None = None,
        lora: Sequence[str] = (),
        context: int | None = None,
        allow_longer: bool = False,
    ) -> AsyncModel:
        """Open a model to run it.

        Args, Raises: See `ggq.load`.
        """
        given = {"threads": threads, "activations": activations, "cache": cache, "interpreter": interpreter}
        more = {"cache_bytes": cache_bytes, "lora": lora, "context": context, "allow_longer": allow_longer}
        return cls(await asyncio.to_thread(reload, path, {**given, **more}))

    @property
    def driver(self) -> Driver:
        """Computes for the model, from its first request on."""
        with self._lock:
            if self._driver is None:
                self.model.policy = self._policy
                self._driver = Driver(self.model.scheduler)
            return self._driver

    @property
    def scheduler(self) -> Scheduler | None:
        """Shares the executor among requests; None before the first one."""
        return None if self._driver is None else self._driver.scheduler

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return 0 if self._driver is None else self._driver.unfinished

    async def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> str:
        """See `Model.generate`."""
        return await _whole(await self.stream(prompt, **options))

    async def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncStream:
        """See `Model.stream`; the result is read with `async for`."""
        answer = await asyncio.to_thread(lambda: self.model.answer(self.model.encode(prompt), options))
        return self.stream_of(answer)

    async def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> str:
        """See `Model.chat`."""
        return await _whole(await self.stream_chat(messages, **options))

    async def stream_chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> AsyncStream:
        """See `Model.stream_chat`; what earlier turns have computed is found by itself."""

        def answer() -> Answer:
            text = self.model.chat_template.render(messages)
            return self.model.answer(self.model.encode(text, begin=False), options)

        return self.stream_of(await asyncio.to_thread(answer))

    def stream_of(self, answer: Answer, client: str = "") -> AsyncStream:
        """The stream of an answer that was made by `Model.answer`, for a client."""
        request = Writing(answer, whole=True)
        request.client = client
        return AsyncStream(self.driver, request)

    async def embed(self, texts: str | Sequence[str], *, prompt: str = "", truncate: bool = True) -> np.ndarray:
        """See `Model.embed`."""
        return await asyncio.to_thread(lambda: self.model.embed(texts, prompt=prompt, truncate=truncate))

    async def rerank(self, query: str, texts: Sequence[str], *, truncate: bool = True) -> np.ndarray:
        """See `Model.rerank`."""
        return await asyncio.to_thread(lambda: self.model.rerank(query, texts, truncate=truncate))

    async def aclose(self) -> None:
        """Let the step under way end, and release everything."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """The same for callers outside of an event loop."""
        if self._driver is not None:
            self._driver.close()
        self.model.close()

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _whole(stream: AsyncStream) -> str:
    return "".join([piece async for piece in stream])
