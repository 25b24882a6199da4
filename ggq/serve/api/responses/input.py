"""The request of /v1/responses: its schema, and what it becomes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ggq.serve.api.chat_input import BUDGETS, EFFORTS, arguments, format_options, make_tool, text_of
from ggq.serve.api.fields import FLAG, MODEL, OBJECT, SAMPLING, TEXT, count, obj, sampling_options
from ggq.serve.errors import refused
from ggq.serve.schema import wrong
from ggq.serve.settings import Settings
from ggq.serve.turn.turn import Tool, Turn

ITEM = {"type": "object", "properties": {"type": TEXT, "role": TEXT, "id": TEXT}}
TOOLS = {
    "type": ["array", "null"],
    "maxItems": 128,
    "items": {
        "type": "object",
        "properties": {"type": {"type": "string"}, "name": TEXT, "description": TEXT, "parameters": OBJECT},
        "required": ["type"],
    },
}
FORMAT = {
    "type": ["object", "null"],
    "properties": {
        "type": {"type": "string", "enum": ["text", "json_object", "json_schema"]},
        "schema": OBJECT,
        "name": TEXT,
        "strict": FLAG,
    },
    "required": ["type"],
}
RESPONSE = obj(
    ["model"],
    model=MODEL,
    input={"anyOf": [{"type": "string"}, {"type": "array", "items": ITEM, "maxItems": 10000}, {"type": "null"}]},
    instructions=TEXT,
    previous_response_id=TEXT,
    conversation={"anyOf": [{"type": "string"}, OBJECT]},
    store=FLAG,
    stream=FLAG,
    stream_options=OBJECT,
    background=FLAG,
    max_output_tokens=count(1),
    max_tool_calls=count(1),
    tools=TOOLS,
    tool_choice={
        "anyOf": [
            {"type": "string", "enum": ["none", "auto", "required"]},
            {"type": "object", "properties": {"type": {"type": "string"}, "name": TEXT}, "required": ["type"]},
            {"type": "null"},
        ]
    },
    parallel_tool_calls=FLAG,
    text={"type": ["object", "null"], "properties": {"format": FORMAT, "verbosity": TEXT}},
    reasoning={
        "type": ["object", "null"],
        "properties": {
            "effort": {"type": ["string", "null"], "enum": [*EFFORTS, None]},
            "summary": TEXT,
            "generate_summary": TEXT,
        },
    },
    include={"type": ["array", "null"], "items": {"type": "string"}},
    truncation={"type": ["string", "null"], "enum": ["auto", "disabled", None]},
    metadata={"type": ["object", "null"], "additionalProperties": {"type": "string"}},
    top_logprobs=count(0, 20),
    service_tier=TEXT,
    safety_identifier=TEXT,
    prompt_cache_key=TEXT,
    prompt_cache_retention=TEXT,
    user=TEXT,
    **{name: schema for name, schema in SAMPLING.items() if name != "stop"},
)


def input_items(given: Any) -> list[dict[str, Any]]:
    """The items of an input, a string's too, each with an id."""
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given or []
    return [{"id": f"item_{uuid.uuid4().hex}", "type": "message", **item} for item in items]


def read_response(body: Mapping[str, Any], items: Sequence[Mapping[str, Any]], settings: Settings, client: str) -> Turn:
    """The turn that a checked body asks for.

    Args:
        body: The request.
        items: The conversation so far and the request's input.
        settings: The server's.
        client: For whom it is.

    Raises:
        ApiError: 400, fields contradict each other or cannot be heeded.
    """
    for name in ("background", "conversation"):
        if body.get(name):
            raise refused(f"{name} is not served here", name, "unsupported_parameter")
    messages = read_items(items, settings)
    if body.get("instructions"):
        messages.insert(0, {"role": "system", "content": body["instructions"]})
    if not messages:
        raise refused("input is missing", "input")
    tools = [_tool(each, f"tools[{place}]") for place, each in enumerate(body.get("tools") or [])]
    choice = body.get("tool_choice", "auto" if tools else "none")
    if not isinstance(choice, str):
        choice = choice.get("name") or refused_choice()
    if not tools and choice not in ("none", "auto"):
        raise refused("tool_choice needs tools", "tool_choice")
    options = sampling_options(body)
    limit = body.get("max_output_tokens")
    options["max_tokens"] = 1 << 40 if limit is None else int(limit)
    if "top_logprobs" in body and "message.output_text.logprobs" in body.get("include", ()):
        options["logprobs"] = int(body["top_logprobs"])
    options.update(format_options((body.get("text") or {}).get("format") or {}))
    effort = (body.get("reasoning") or {}).get("effort")
    return Turn(
        messages,
        options,
        tools,
        choice,
        bool(body.get("parallel_tool_calls", True)),
        thinking=None if effort is None else effort != "none",
        budget=None if effort is None else BUDGETS.get(effort),
        client=client,
    )


def refused_choice() -> str:
    """Refuse a choice of a tool without a name."""
    raise refused("tool_choice.name is missing", "tool_choice.name")


def _tool(given: Mapping[str, Any], place: str) -> Tool:
    if given["type"] != "function":
        raise wrong(f"{place}.type", f"{given['type']!r:.40} is not served here; functions are")
    if not given.get("name"):
        raise refused(f"{place}.name is missing", f"{place}.name")
    return make_tool(given["name"], given.get("description"), given.get("parameters"), place)


def read_items(items: Sequence[Mapping[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Messages as chat templates expect them; calls that follow each other are one message."""
    found: list[dict[str, Any]] = []
    thought = ""
    for place, item in enumerate(items):
        kind, where = item.get("type", "message"), f"input[{place}]"
        if kind == "message":
            found.append(_message(item, where, settings))
        elif kind == "function_call":
            _add_call(found, item, where)
        elif kind == "function_call_output":
            output = item.get("output")
            text = output if isinstance(output, str) else text_of(_parts(output, where), f"{where}.output", settings)
            found.append({"role": "tool", "tool_call_id": item.get("call_id", ""), "content": text})
        elif kind == "reasoning":
            thought = "".join(str(part.get("text", "")) for part in item.get("content") or item.get("summary") or ())
            continue
        else:
            raise wrong(f"{where}.type", f"{kind!r:.40} is not served here")
        if thought and found[-1]["role"] == "assistant":
            found[-1]["reasoning_content"], thought = thought, ""
    return found


def _message(item: Mapping[str, Any], where: str, settings: Settings) -> dict[str, Any]:
    role = item.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise wrong(f"{where}.role", f"{role!r:.40} is none of system, developer, user, assistant")
    content = item.get("content")
    text = content if isinstance(content, str) else text_of(_parts(content, where), f"{where}.content", settings)
    return {"role": "system" if role == "developer" else role, "content": text}


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(
        isinstance(p, dict) and isinstance(p.get("type"), str) for p in content
    ):
        raise wrong(f"{where}.content", "a string or an array of parts with a type is expected")
    return content


def _add_call(found: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    name, text = item.get("name"), item.get("arguments")
    if not isinstance(name, str) or not isinstance(text, str):
        raise wrong(where, "a function_call has a name and arguments, both strings")
    function = {"name": name, "arguments": arguments(text)}
    call = {"id": item.get("call_id", ""), "type": "function", "function": function}
    if found and found[-1]["role"] == "assistant" and (found[-1].get("tool_calls") or not found[-1]["content"]):
        found[-1].setdefault("tool_calls", []).append(call)
    elif found and found[-1]["role"] == "assistant":
        found[-1]["tool_calls"] = [call]
    else:
        found.append({"role": "assistant", "content": "", "tool_calls": [call]})


def described(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a response that repeat what was asked for."""
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    form = dict(text.get("format") or {"type": "text"})
    if form["type"] == "json_schema":
        form = {"name": "answer", "description": None, "strict": False, **form}
    tools = [
        {"type": "function", "description": None, "parameters": None, "strict": True, **tool}
        for tool in body.get("tools") or []
    ]
    return {
        "instructions": body.get("instructions"),
        "previous_response_id": body.get("previous_response_id"),
        "tools": tools,
        "tool_choice": body.get("tool_choice", "auto"),
        "truncation": body.get("truncation", "disabled"),
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "text": {"format": form},
        "temperature": body.get("temperature", 1.0),
        "top_p": body.get("top_p", 1.0),
        "presence_penalty": body.get("presence_penalty", 0.0),
        "frequency_penalty": body.get("frequency_penalty", 0.0),
        "top_logprobs": body.get("top_logprobs", 0),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "store": body.get("store", True),
        "background": False,
        "service_tier": "default",
        "metadata": body.get("metadata", {}),
        "safety_identifier": body.get("safety_identifier"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "user": body.get("user"),
    }
