"""Answers as they are computed: what comes out, in the order in which it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from ggq.errors import FormatError
from ggq.generate.generation import Likelihood, Piece
from ggq.generate.request import ScoredWriting, Writing
from ggq.serve.errors import ApiError
from ggq.serve.metrics import Metrics
from ggq.serve.models import Served
from ggq.serve.settings import Settings
from ggq.serve.turn.channels import ChannelReader
from ggq.serve.turn.prepare import Prepared
from ggq.serve.turn.reader import Reader
from ggq.serve.turn.turn import Call, Delta, Usage

REASONS = {"end": "stop", "stop": "stop", "length": "length"}


class Run:
    """Computes prepared answers, for one task.

    Args:
        served: The model, which is loaded and in use.
        prepared: The answers.
        settings: How long it may take, and how often a silent stream is broken.
        metrics: Told of everything.
    """

    def __init__(self, served: Served, prepared: Prepared, settings: Settings, metrics: Metrics) -> None:
        self._served, self._prepared, self._settings, self._metrics = served, prepared, settings, metrics
        self.requests = [self._request(place) for place in range(len(prepared.answers))]
        self._called = [False] * len(self.requests)
        self.usage = Usage(prompt=prepared.prompts)
        self._start = time.perf_counter()
        self._last: list[float | None] = [None] * len(self.requests)
        self._open = set(range(len(self.requests)))

    def _request(self, place: int) -> Writing:
        prepared = self._prepared
        answer = prepared.answers[place]
        request: Writing
        if prepared.scored is None:
            request = Writing(answer, whole=True)
        else:
            request = ScoredWriting(answer, prepared.scored, only=prepared.only)
        request.client = prepared.client
        return request

    async def deltas(self) -> AsyncIterator[Delta]:
        """Everything, until all answers have ended.

        Raises:
            ApiError: 408, it took too long.
            GGQError: The model was closed, the tokens do not fit into the cache, the model computes NaN.
        """
        driver = self._served.loaded.driver
        try:
            changed = driver.submit(self.requests)[0].changed
            deadline = self._start + self._settings.timeout
            while self._open:
                wait = min(self._settings.ping, deadline - time.perf_counter())
                if wait <= 0:
                    raise ApiError(408, f"the answer took more than {self._settings.timeout:g} seconds", code="timeout")
                try:
                    await asyncio.wait_for(changed.wait(), wait)
                except asyncio.TimeoutError:
                    yield Delta(0, "progress", progress=self._progress())
                    continue
                changed.clear()
                for delta in self._news():
                    yield delta
        except FormatError:  # the file was cut short while it ran
            self._served.damaged = True
            raise
        finally:
            for request in self.requests:
                driver.cancel(request)
            self._count()

    def _news(self) -> list[Delta]:
        found: list[Delta] = []
        for place in sorted(self._open):
            request = self.requests[place]
            finished = request.finished  # before its pieces, of which the last may come meanwhile
            while request.pieces:
                found += self._take(place, request.pieces.popleft())
            if finished:
                self._open.discard(place)
                if request.error is not None:
                    raise request.error
        if not found and all(last is None for last in self._last):
            found.append(Delta(0, "progress", progress=self._progress()))
        return found

    def _progress(self) -> tuple[int, int]:
        prompts = [len(request.answer.prompt) for request in self.requests]
        return sum(min(r.computed, p) for r, p in zip(self.requests, prompts)), sum(prompts)

    def _take(self, place: int, piece: Piece) -> list[Delta]:
        request, reader = self.requests[place], self._prepared.readers[place]
        request.answer.add(piece)
        self._clock(place, piece)
        before, found = reader.thinking, list[Delta]()
        text = piece.text
        if piece.token is not None:
            self.usage.answer += 1
            text += self._prepared.marks.get(piece.token, "")
            if piece.likelihood is not None:
                tokens: list[tuple[int, Likelihood]] = [(piece.token, piece.likelihood)]
                found.append(Delta(place, "tokens", tokens=tokens))
        found += self._parts(place, reader, text, piece.finish_reason is not None)
        if piece.token is not None and (before or reader.thinking):
            self.usage.reasoning += 1
        if piece.finish_reason is not None:
            reason = REASONS[piece.finish_reason]
            reason = "calls" if self._called[place] and reason == "stop" else reason
            stop = request.answer.stop_string if piece.finish_reason == "stop" else None
            found.append(Delta(place, "end", stop or "", reason=reason))
            self._metrics.finished.labels(self._served.name, "tool_calls" if reason == "calls" else reason).inc()
        return found

    def _parts(self, place: int, reader: Reader | ChannelReader, text: str, over: bool) -> list[Delta]:
        found: list[Delta] = []
        for kind, what in [*reader.push(text), *(reader.flush() if over else ())]:
            if isinstance(what, Call):
                self._called[place] = True
                found.append(Delta(place, "call", call=what))
            elif found and found[-1].kind == kind:
                found[-1] = found[-1]._replace(text=found[-1].text + what)
            else:
                found.append(Delta(place, kind, what))
        return found

    def _clock(self, place: int, piece: Piece) -> None:
        now, last, name = time.perf_counter(), self._last[place], self._served.name
        if last is None:
            self._metrics.first.labels(name).observe(now - self._start)
        elif piece.token is not None:
            self._metrics.between.labels(name).observe(now - last)
            self._metrics.between_2.labels(name).observe(now - last)
        self._last[place] = now

    def _count(self) -> None:
        """Tell the metrics of what was computed, whether it ended or not."""
        name, metrics, usage = self._served.name, self._metrics, self.usage
        usage.cached = sum(request.reused for request in self.requests)
        for request in self.requests:
            timing = request.timing
            metrics.prompt_tokens.labels(name).inc(len(request.answer.prompt))
            metrics.prompt_tokens_2.labels(name).inc(timing.prefill_tokens)
            metrics.prompt_seconds.labels(name).inc(timing.prefill_seconds)
            metrics.generation_seconds.labels(name).inc(timing.decode_seconds)
            metrics.prompt_size.labels(name).observe(len(request.answer.prompt))
            metrics.answer_size.labels(name).observe(len(request.answer.tokens))
        metrics.generation_tokens.labels(name).inc(usage.answer)
        metrics.generation_tokens_2.labels(name).inc(usage.answer)
        metrics.whole.labels(name).observe(time.perf_counter() - self._start)
