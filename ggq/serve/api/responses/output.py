"""What a response is made of: items that grow, and the events that tell of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from ggq.serve.api.chat import tokens_of
from ggq.serve.api.token_texts import TokenTexts
from ggq.serve.events import event
from ggq.serve.turn.turn import Call, Delta, Usage

Events = Iterator[tuple[str, dict[str, Any]]]


class Output:
    """The items of one response, as they grow.

    Args:
        texts: Of tokens, for their log-probabilities.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self.items: list[dict[str, Any]] = []
        self.reason = "stop"
        self._texts = texts
        self._kind = ""  # of the item that grows
        self._logprobs: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        """Whether it ended by itself."""
        return self.reason != "length"

    def add(self, delta: Delta) -> Events:
        """Grow by what has come; the events of that."""
        if delta.kind in ("text", "reasoning"):
            if self._kind != delta.kind:
                yield from self._end()
                yield from self._begin(delta.kind)
            yield from self._grow(delta.text)
        elif delta.kind == "tokens":
            self._logprobs += tokens_of(delta.tokens, self._texts)
        elif delta.call is not None:
            yield from self._end()
            yield from self._call(delta.call)
        elif delta.kind == "end":
            self.reason = delta.reason
            if not self.items:
                yield from self._begin("text")  # an answer of no text is an item all the same
            yield from self._end()

    def _begin(self, kind: str) -> Events:
        self._kind = kind
        if kind == "reasoning":
            item: dict[str, Any] = {"type": "reasoning", "id": _id("rs"), "summary": [], "content": []}
            item["status"] = "in_progress"
        else:
            item = {"type": "message", "id": _id("msg"), "status": "in_progress", "role": "assistant", "content": []}
        self.items.append(item)
        yield "response.output_item.added", {"output_index": self._index, "item": dict(item)}
        item["content"] = [self._part("")]
        yield "response.content_part.added", {**self._where, "part": self._part("")}

    def _grow(self, text: str) -> Events:
        part = self.items[-1]["content"][0]
        part["text"] += text
        more: dict[str, Any] = {}
        if self._kind == "text":
            more, self._logprobs = {"logprobs": self._logprobs}, []
            part["logprobs"] += more["logprobs"]
        yield f"response.{self._name}.delta", {**self._where, "delta": text, **more}

    def _end(self) -> Events:
        """End the item that grows, if there is one."""
        if not self._kind:
            return
        item = self.items[-1]
        part = item["content"][0]
        if self._kind == "text":
            part["logprobs"] += self._logprobs
            self._logprobs = []
        more = {"logprobs": part["logprobs"]} if self._kind == "text" else {}
        yield f"response.{self._name}.done", {**self._where, "text": part["text"], **more}
        yield "response.content_part.done", {**self._where, "part": dict(part)}
        item["status"] = "completed" if self.complete else "incomplete"
        yield "response.output_item.done", {"output_index": self._index, "item": dict(item)}
        self._kind = ""

    def _call(self, call: Call) -> Events:
        item: dict[str, Any] = {
            "type": "function_call",
            "id": _id("fc"),
            "call_id": _id("call"),
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        self.items.append(item)
        yield "response.output_item.added", {"output_index": self._index, "item": dict(item)}
        place = {"item_id": item["id"], "output_index": self._index}
        yield "response.function_call_arguments.delta", {**place, "delta": call.arguments}
        named = {"arguments": call.arguments, "name": call.name}
        yield "response.function_call_arguments.done", {**place, **named}
        item.update(arguments=call.arguments, status="completed")
        yield "response.output_item.done", {"output_index": self._index, "item": dict(item)}

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    @property
    def _name(self) -> str:
        return "reasoning_text" if self._kind == "reasoning" else "output_text"

    @property
    def _index(self) -> int:
        return len(self.items) - 1

    @property
    def _where(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": self._index, "content_index": 0}


class Numbered:
    """Events with numbers that count up."""

    def __init__(self) -> None:
        self._number = -1

    def event(self, name: str, fields: dict[str, Any]) -> str:
        """The next event."""
        self._number += 1
        return event({"type": name, "sequence_number": self._number, **fields}, name)


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens, as this interface has them."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": min(usage.cached, usage.prompt)},
        "output_tokens": usage.answer,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.answer,
    }


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
