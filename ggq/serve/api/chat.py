"""/v1/chat/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.generate.generation import Likelihood
from ggq.serve.api.chat_input import read_turn
from ggq.serve.api.token_texts import TokenTexts
from ggq.serve.context import Context, document
from ggq.serve.errors import ApiError
from ggq.serve.events import EventStream, event, progress, while_wanted
from ggq.serve.models import Served
from ggq.serve.turn.prepare import Prepared, prepare
from ggq.serve.turn.run import Run
from ggq.serve.turn.turn import Call, Delta, Turn, Usage

FINISHED = {"stop": "stop", "length": "length", "calls": "tool_calls"}


async def begin(context: Context, request: Request, served: Served, turn: Turn) -> Prepared:
    """Load the model if it is not, and prepare the turn; ends when the client leaves."""
    model = await while_wanted(request, context.models.ready(served))
    model.driver  # noqa: B018  refuses a model that makes vectors
    return await asyncio.to_thread(prepare, model.model, turn)


async def chat(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Answer a conversation, whole or in events."""
    served = context.models.find(body.get("model"))
    turn = read_turn(body, context.settings, request.scope["ggq.client"])
    with ExitStack() as stack:
        stack.enter_context(context.models.use(served))
        prepared = await begin(context, request, served, turn)
        run = Run(served, prepared, context.settings, context.metrics)
        frame = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.get("model") or served.name,
            "system_fingerprint": f"ggq-{served.created:x}",
        }
        texts = TokenTexts(served.loaded.model)
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return EventStream(_events(run, frame, texts, usage), failed, stack.pop_all().close)
        return await while_wanted(request, _whole(run, frame, texts, "logprobs" in turn.options))


async def _whole(run: Run, frame: dict[str, Any], texts: TokenTexts, logprobs: bool) -> Response:
    messages = [_Message() for _ in run.requests]
    async for delta in run.deltas():
        messages[delta.choice].add(delta, texts)
    choices = [message.choice(index, logprobs) for index, message in enumerate(messages)]
    return document({"object": "chat.completion", **frame, "choices": choices, "usage": usage_of(run.usage)})


class _Message:
    """One answer, collected."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._tokens: list[dict[str, Any]] = []
        self._reason = "stop"

    def add(self, delta: Delta, texts: TokenTexts) -> None:
        """Take what has come."""
        if delta.kind == "text":
            self._text.append(delta.text)
        elif delta.kind == "reasoning":
            self._reasoning.append(delta.text)
        elif delta.call is not None:
            self._calls.append(call_of(delta.call))
        elif delta.kind == "tokens":
            self._tokens += tokens_of(delta.tokens, texts)
        elif delta.kind == "end":
            self._reason = FINISHED[delta.reason]

    def choice(self, index: int, logprobs: bool) -> dict[str, Any]:
        """As OpenAI has it."""
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
            message["content"] = text.strip() and text or None
        found = {"content": self._tokens, "refusal": None} if logprobs else None
        return {"index": index, "message": message, "logprobs": found, "finish_reason": self._reason}


async def _events(run: Run, frame: dict[str, Any], texts: TokenTexts, usage: bool) -> AsyncIterator[str]:
    calls = [0] * len(run.requests)
    frame = {"object": "chat.completion.chunk", **frame, **({"usage": None} if usage else {})}

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None, tokens: Any = None) -> str:
        logprobs = None if tokens is None else {"content": tokens, "refusal": None}
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event({**frame, "choices": [choice]})

    for index in range(len(run.requests)):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    async for delta in run.deltas():
        if delta.kind == "progress":
            yield progress(*delta.progress)
        elif delta.kind == "text":
            yield chunk(delta.choice, {"content": delta.text})
        elif delta.kind == "reasoning":
            yield chunk(delta.choice, {"reasoning_content": delta.text})
        elif delta.kind == "tokens":
            yield chunk(delta.choice, {}, tokens=tokens_of(delta.tokens, texts))
        elif delta.call is not None:
            yield chunk(delta.choice, {"tool_calls": [{"index": calls[delta.choice], **call_of(delta.call)}]})
            calls[delta.choice] += 1
        elif delta.kind == "end":
            yield chunk(delta.choice, {}, FINISHED[delta.reason])
    if usage:
        yield event({**frame, "choices": [], "usage": usage_of(run.usage)})
    yield "data: [DONE]\n\n"


def call_of(call: Call) -> dict[str, Any]:
    """A call as OpenAI has it."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def tokens_of(tokens: Sequence[tuple[int, Likelihood]], texts: TokenTexts) -> list[dict[str, Any]]:
    """How likely tokens were, as OpenAI has it."""
    found = []
    for token, likelihood in tokens:
        top = [{**texts.described(each), "logprob": log} for each, log in likelihood.top]
        found.append({**texts.described(token), "logprob": likelihood.logprob, "top_logprobs": top})
    return found


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens, as OpenAI has them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.answer,
        "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": {"cached_tokens": min(usage.cached, usage.prompt), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def failed(problem: ApiError) -> str:
    return event(problem.document()) + "data: [DONE]\n\n"
