"""The addresses of /v1/responses."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.serve.api.chat import begin
from ggq.serve.api.responses.input import described, input_items, read_response
from ggq.serve.api.responses.output import Numbered, Output, usage_of
from ggq.serve.api.token_texts import TokenTexts
from ggq.serve.context import Context, document
from ggq.serve.errors import ApiError
from ggq.serve.events import EventStream, progress, while_wanted
from ggq.serve.turn.run import Run


async def responses(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Answer, whole or in events; the answer is kept for the next turn unless `store` is false."""
    client = request.scope["ggq.client"]
    served = context.models.find(body.get("model"))
    items = [*_before(context, client, body.get("previous_response_id")), *input_items(body.get("input"))]
    turn = read_response(body, items, context.settings, client)
    with ExitStack() as stack:
        stack.enter_context(context.models.use(served))
        prepared = await begin(context, request, served, turn)
        run = Run(served, prepared, context.settings, context.metrics)
        answer = _Answer(context, client, body, items, run, Output(TokenTexts(served.loaded.model)))
        answer.frame["model"] = body.get("model") or served.name
        if body.get("stream"):
            return EventStream(answer.events(), answer.failed, stack.pop_all().close)
        return await while_wanted(request, answer.whole())


def _before(context: Context, client: str, name: str | None) -> list[dict[str, Any]]:
    if name is None:
        return []
    found = context.store.get(client, name)
    if found is None:
        raise _unknown(name, "previous_response_id")
    return found[1]


@dataclass
class _Answer:
    """One response that is being made.

    Args:
        context: The server.
        client: Whose it is.
        body: The request.
        items: The conversation up to the answer.
        run: Computes it.
        output: Its items.
    """

    context: Context
    client: str
    body: dict[str, Any]
    items: list[dict[str, Any]]
    run: Run
    output: Output

    def __post_init__(self) -> None:
        self._numbered = Numbered()
        self.frame: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": "",
            "output": [],
            "usage": None,
            **described(self.body),
        }

    async def whole(self) -> Response:
        """The response when it is done."""
        async for delta in self.run.deltas():
            for _ in self.output.add(delta):
                pass
        return document(self._done())

    async def events(self) -> AsyncIterator[str]:
        """Its events."""
        for name in ("created", "in_progress"):
            yield self._numbered.event(f"response.{name}", {"response": dict(self.frame)})
        async for delta in self.run.deltas():
            if delta.kind == "progress":
                yield progress(*delta.progress)
            for name, fields in self.output.add(delta):
                yield self._numbered.event(name, fields)
        found = self._done()
        yield self._numbered.event(f"response.{found['status']}", {"response": found})

    def failed(self, problem: ApiError) -> str:
        """The last event of what went wrong."""
        error = {"code": problem.code or problem.kind, "message": problem.message}
        response = {**self.frame, "status": "failed", "error": error, "output": self.output.items}
        return self._numbered.event("response.failed", {"response": response})

    def _done(self) -> dict[str, Any]:
        complete = self.output.complete
        found = {
            **self.frame,
            "completed_at": int(time.time()) if complete else None,
            "status": "completed" if complete else "incomplete",
            "incomplete_details": None if complete else {"reason": "max_output_tokens"},
            "output": self.output.items,
            "usage": usage_of(self.run.usage),
        }
        if found["store"]:
            self.context.store.put(self.client, found, [*self.items, *self.output.items])
        return found


async def one_response(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """A response that was kept."""
    return document(_kept(context, request)[0])


async def response_input(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The conversation that a response answers, the newest first."""
    response, items = _kept(context, request)
    before = items[: len(items) - len(response["output"])][::-1]
    ends = {"first_id": before[0]["id"] if before else None, "last_id": before[-1]["id"] if before else None}
    return document({"object": "list", "data": before, "has_more": False, **ends})


async def delete_response(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Forget a response."""
    name = request.path_params["name"]
    if not context.store.delete(request.scope["ggq.client"], name):
        raise _unknown(name, None)
    return document({"id": name, "object": "response", "deleted": True})


async def compact(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Conversations are not compacted here: the client is told so, as by servers that never heard of it."""
    raise ApiError(404, "conversations are not compacted here", code="unsupported")


def _kept(context: Context, request: Request) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    name = request.path_params["name"]
    found = context.store.get(request.scope["ggq.client"], name)
    if found is None:
        raise _unknown(name, None)
    return found


def _unknown(name: str, param: str | None) -> ApiError:
    return ApiError(
        404, f"there is no response {name!r:.80}, or it is not kept any more", param=param, code="not_found"
    )
