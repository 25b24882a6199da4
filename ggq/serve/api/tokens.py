"""/tokenize, /detokenize, /apply-template: what becomes of a text before a model sees it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.serve.api.chat_input import MESSAGES, TOOLS, read_messages, read_tools
from ggq.serve.api.fields import MODEL, obj
from ggq.serve.context import Context, document
from ggq.serve.events import while_wanted
from ggq.serve.turn.prepare import prompt_of
from ggq.serve.turn.turn import Turn

TOKENIZE = obj(
    ["content"],
    model=MODEL,
    content={"type": "string"},
    add_special={"type": ["boolean", "null"], "description": "Begin as a prompt begins; false by default."},
    with_pieces={"type": ["boolean", "null"], "description": "Give each token's text too."},
)
DETOKENIZE = obj(["tokens"], model=MODEL, tokens={"type": "array", "items": {"type": "integer", "minimum": 0}})
TEMPLATE = obj(
    ["messages"], model=MODEL, messages=MESSAGES, tools=TOOLS, chat_template_kwargs={"type": ["object", "null"]}
)


async def tokenize(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The token ids of a text."""
    served = context.models.find(body.get("model"))
    with context.models.use(served):
        model = (await while_wanted(request, context.models.ready(served))).model
        begin = bool(body.get("add_special", False))
        ids = await asyncio.to_thread(
            lambda: model.encode(body["content"], begin=True) if begin else plain_ids(model, body["content"])
        )
        if body.get("with_pieces"):
            pieces = [
                {"id": token, "piece": model.tokenizer.decode([token], skip_special_tokens=False)} for token in ids
            ]
            return document({"tokens": pieces, "count": len(ids)})
        return document({"tokens": ids, "count": len(ids), "max_model_len": served.context})


def plain_ids(model: Any, text: str) -> list[int]:
    """The ids of a text without what begins a prompt."""
    return list(model.encode(text, begin=False))


async def detokenize(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The text of token ids, special ones included."""
    served = context.models.find(body.get("model"))
    with context.models.use(served):
        model = (await while_wanted(request, context.models.ready(served))).model
        size = model.config.vocabulary_size
        for place, token in enumerate(body["tokens"]):
            if int(token) >= size:
                from ggq.serve.schema import wrong

                raise wrong(f"tokens[{place}]", f"{token} is outside the vocabulary, 0 to {size - 1} allowed")
        ids = [int(token) for token in body["tokens"]]
        text = await asyncio.to_thread(lambda: model.tokenizer.decode(ids, skip_special_tokens=False))
        return document({"content": text, "prompt": text})


async def apply_template(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """The prompt of a conversation."""
    served = context.models.find(body.get("model"))
    with context.models.use(served):
        model = (await while_wanted(request, context.models.ready(served))).model
        turn = Turn(
            read_messages(body["messages"], context.settings),
            {},
            read_tools(body.get("tools", [])),
            variables=body.get("chat_template_kwargs", {}),
        )
        prompt = await asyncio.to_thread(prompt_of, model, turn)
        return document({"prompt": prompt})
