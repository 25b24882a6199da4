"""/v1/messages: Anthropic's interface, and how many tokens a request of it has."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.serve.api.chat import begin
from ggq.serve.api.messages_input import read_messages_turn
from ggq.serve.context import Context, document
from ggq.serve.errors import ApiError
from ggq.serve.events import EventStream, event, progress, while_wanted
from ggq.serve.turn.prepare import prompt_of
from ggq.serve.turn.run import Run
from ggq.serve.turn.turn import Call, Delta, Usage

REASONS = {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use"}


async def messages(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Answer a conversation, whole or in events."""
    served = context.models.find(body["model"])
    turn = read_messages_turn(body, context.settings, request.scope["ggq.client"])
    with ExitStack() as stack:
        stack.enter_context(context.models.use(served))
        prepared = await begin(context, request, served, turn)
        run = Run(served, prepared, context.settings, context.metrics)
        blocks = Blocks(body.get("stop_sequences", ()))
        frame: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": usage_of(run.usage),
        }
        if body.get("stream"):
            return EventStream(_events(run, frame, blocks), failed, stack.pop_all().close)
        return await while_wanted(request, _whole(run, frame, blocks))


async def count_tokens(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """How many tokens the prompt of a request has."""
    served = context.models.find(body["model"])
    turn = read_messages_turn({**body, "max_tokens": 1}, context.settings, request.scope["ggq.client"])
    with context.models.use(served):
        model = (await while_wanted(request, context.models.ready(served))).model
        count = await asyncio.to_thread(lambda: len(model.encode(prompt_of(model, turn), begin=False)))
        return document({"input_tokens": count})


class Blocks:
    """The content of an answer, as it grows.

    Args:
        stops: The strings that the client wants it to end before; a model may have others of its own.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self.content: list[dict[str, Any]] = []
        self.ended: dict[str, Any] = {"stop_reason": "end_turn", "stop_sequence": None}
        self._kind = ""

    def add(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """Grow by what has come; the events of that."""
        if delta.kind in ("text", "reasoning"):
            if self._kind != delta.kind:
                yield from self._end()
                yield self._begin(delta.kind)
            yield self._grow(delta.text)
        elif delta.call is not None:
            yield from self._end()
            yield from self._call(delta.call)
        elif delta.kind == "end":
            found = delta.text if delta.text in self._stops and delta.reason == "stop" else None
            self.ended = {"stop_reason": "stop_sequence" if found else REASONS[delta.reason], "stop_sequence": found}
            if not self.content:
                yield self._begin("text")
            yield from self._end()

    @property
    def _index(self) -> int:
        return len(self.content) - 1

    def _begin(self, kind: str) -> dict[str, Any]:
        self._kind = kind
        text = {"type": "text", "text": "", "citations": None}
        block = text if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
        self.content.append(block)
        return {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _grow(self, text: str) -> dict[str, Any]:
        key = "text" if self._kind == "text" else "thinking"
        self.content[-1][key] += text
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": f"{key}_delta", key: text}}

    def _end(self) -> Iterator[dict[str, Any]]:
        if self._kind:
            yield {"type": "content_block_stop", "index": self._index}
        self._kind = ""

    def _call(self, call: Call) -> Iterator[dict[str, Any]]:
        try:
            given = json.loads(call.arguments)
        except (ValueError, RecursionError):
            given = {}
        block = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex}", "name": call.name, "input": {}}
        block["caller"] = {"type": "direct"}
        self.content.append({**block, "input": given if isinstance(given, dict) else {}})
        yield {"type": "content_block_start", "index": self._index, "content_block": block}
        text = {"type": "input_json_delta", "partial_json": call.arguments}
        yield {"type": "content_block_delta", "index": self._index, "delta": text}
        yield {"type": "content_block_stop", "index": self._index}


async def _whole(run: Run, frame: dict[str, Any], blocks: Blocks) -> Response:
    async for delta in run.deltas():
        for _ in blocks.add(delta):
            pass
    return document({**frame, "content": blocks.content, **blocks.ended, "usage": usage_of(run.usage)})


async def _events(run: Run, frame: dict[str, Any], blocks: Blocks) -> AsyncIterator[str]:
    def named(fields: dict[str, Any]) -> str:
        return event(fields, fields["type"])

    yield named({"type": "message_start", "message": frame})
    yield named({"type": "ping"})
    async for delta in run.deltas():
        if delta.kind == "progress":
            yield progress(*delta.progress)
        for fields in blocks.add(delta):
            yield named(fields)
    yield named(
        {"type": "message_delta", "delta": {**blocks.ended, "stop_details": None}, "usage": usage_of(run.usage)}
    )
    yield named({"type": "message_stop"})


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens, as Anthropic has them: those found in the cache are told apart."""
    cached = min(usage.cached, usage.prompt)
    return {
        "input_tokens": usage.prompt - cached,
        "output_tokens": usage.answer,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "cache_creation": None,
        "inference_geo": None,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": "standard",
    }


def failed(problem: ApiError) -> str:
    """The last event of what went wrong."""
    return event(problem.document("/v1/messages"), "error")
