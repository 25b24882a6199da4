"""The request of /v1/chat/completions: its schema, and what it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ggq.serve.api.fields import FLAG, GRAMMARS, MODEL, OBJECT, SAMPLING, TEXT, count, obj
from ggq.serve.errors import refused
from ggq.serve.schema import wrong
from ggq.serve.settings import Settings
from ggq.serve.turn.closed import closed
from ggq.serve.turn.turn import Tool, Turn

NAME = {"type": "string", "minLength": 1, "maxLength": 64}
PART = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "text": {"type": "string"}},
    "required": ["type"],
}
CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": PART}, {"type": "null"}]}
CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
            "required": ["name", "arguments"],
        },
    },
    "required": ["function"],
}
ROLES = ["system", "developer", "user", "assistant", "tool"]
MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ROLES},
        "content": CONTENT,
        "name": TEXT,
        "tool_call_id": TEXT,
        "tool_calls": {"type": ["array", "null"], "items": CALL},
        "reasoning_content": TEXT,
        "refusal": TEXT,
    },
    "required": ["role"],
}
MESSAGES = {"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 10000}
FUNCTION = {
    "type": "object",
    "properties": {"name": NAME, "description": TEXT, "parameters": OBJECT, "strict": FLAG},
    "required": ["name"],
}
TOOLS = {
    "type": ["array", "null"],
    "maxItems": 128,
    "items": {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["function"]}, "function": FUNCTION},
        "required": ["type", "function"],
    },
}
NAMED = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["function"]},
        "function": {"type": "object", "properties": {"name": NAME}, "required": ["name"]},
    },
    "required": ["type", "function"],
}
FORMAT = {
    "type": ["object", "null"],
    "properties": {
        "type": {"type": "string", "enum": ["text", "json_object", "json_schema", "regex", "lark"]},
        "json_schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "schema": OBJECT, "strict": FLAG, "description": TEXT},
        },
        "schema": OBJECT,
        "regex": {"type": "string", "maxLength": 65536},
        "lark": {"type": "string", "maxLength": 1 << 20},
    },
    "required": ["type"],
}
EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh"]
BUDGETS = {"minimal": 128, "low": 512, "medium": 2048, "high": 8192, "xhigh": 32768}
"""Tokens of thought at most, by the effort that is asked for."""

IGNORED: dict[str, dict[str, Any]] = {
    "user": TEXT,
    "store": FLAG,
    "metadata": OBJECT,
    "service_tier": TEXT,
    "safety_identifier": TEXT,
    "prompt_cache_key": TEXT,
    "prompt_cache_retention": TEXT,
    "cache_prompt": FLAG,
    "verbosity": TEXT,
}
"""Fields that change nothing here: they are about accounts and caches, which look after themselves."""

CHAT = obj(
    ["model", "messages"],
    model=MODEL,
    messages=MESSAGES,
    max_tokens=count(1),
    max_completion_tokens=count(1),
    n=count(1, 128),
    stream=FLAG,
    stream_options={"type": ["object", "null"], "properties": {"include_usage": FLAG, "include_obfuscation": FLAG}},
    logprobs=FLAG,
    top_logprobs=count(0, 20),
    tools=TOOLS,
    tool_choice={"anyOf": [{"type": "string", "enum": ["none", "auto", "required"]}, NAMED, {"type": "null"}]},
    parallel_tool_calls=FLAG,
    response_format=FORMAT,
    reasoning_effort={"type": ["string", "null"], "enum": [*EFFORTS, None]},
    reasoning={
        "type": ["object", "null"],
        "properties": {"effort": {"type": ["string", "null"], "enum": [*EFFORTS, None]}},
    },
    thinking_budget=count(0, text="Tokens of thought at most."),
    chat_template_kwargs=OBJECT,
    continue_final_message={**FLAG, "description": "The last message is the beginning of the answer."},
    **SAMPLING,
    **GRAMMARS,
    **IGNORED,
)


def read_turn(body: Mapping[str, Any], settings: Settings, client: str) -> Turn:
    """The turn that a checked body asks for.

    Raises:
        ApiError: 400, fields contradict each other.
    """
    options, choices = dict(chat_options(body)), int(body.get("n", 1))
    if choices > settings.most_choices:
        raise wrong("n", f"{choices} choices are more than {settings.most_choices}")
    tools = read_tools(body.get("tools") or [])
    choice = body.get("tool_choice", "auto" if tools else "none")
    choice = choice if isinstance(choice, str) else choice["function"]["name"]
    if not tools and choice not in ("none", "auto"):
        raise refused("tool_choice needs tools", "tool_choice")
    effort = body.get("reasoning_effort") or body.get("reasoning", {}).get("effort")
    return Turn(
        read_messages(body["messages"], settings),
        options,
        tools,
        choice,
        bool(body.get("parallel_tool_calls", True)),
        choices,
        continued(body),
        None if effort is None else effort != "none",
        body.get("thinking_budget", BUDGETS.get(effort)),
        body.get("chat_template_kwargs", {}),
        client,
    )


def chat_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the engine."""
    from ggq.serve.api.fields import sampling_options

    options = sampling_options(body)
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    options["max_tokens"] = 1 << 40 if limit is None else int(limit)  # as far as the context reaches
    if body.get("logprobs"):
        options["logprobs"] = int(body.get("top_logprobs", 0))
    elif body.get("top_logprobs"):
        raise refused("top_logprobs needs logprobs to be true", "top_logprobs")
    given = format_options(body.get("response_format") or {})
    for name in given:
        if name in options:
            raise refused(f"response_format and {name} cannot be combined", "response_format")
    return {**options, **given}


def format_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The grammar that a response_format asks for."""
    kind = given.get("type", "text")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": given.get("schema") or {"type": "object"}}
    if kind == "json_schema":
        schema = given.get("json_schema", {}).get("schema", given.get("schema"))
        if not isinstance(schema, Mapping):
            raise refused("response_format.json_schema.schema is missing", "response_format.json_schema.schema")
        return {"json_schema": closed(schema)}
    if kind not in given:
        raise refused(f"response_format.{kind} is missing", f"response_format.{kind}")
    return {kind: given[kind]}


def continued(body: Mapping[str, Any]) -> bool:
    """Whether the last message is the beginning of the answer."""
    wanted = bool(body.get("continue_final_message"))
    if wanted and body["messages"][-1]["role"] != "assistant":
        raise refused("continue_final_message needs a last message of the assistant", "continue_final_message")
    return wanted


def read_tools(given: Sequence[Mapping[str, Any]]) -> list[Tool]:
    """The tools of a request."""
    found: list[Tool] = []
    for place, each in enumerate(given):
        about = each["function"]
        found.append(make_tool(about["name"], about.get("description"), about.get("parameters"), f"tools[{place}]"))
    names = [tool.name for tool in found]
    for name in names:
        if names.count(name) > 1:
            raise refused(f"two tools are named {name!r}", "tools")
    return found


def make_tool(name: str, description: str | None, parameters: Mapping[str, Any] | None, place: str) -> Tool:
    """A tool, whose name and schema are checked."""
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise wrong(f"{place}.name", "letters, digits, _, - and . are allowed")
    schema = dict(parameters or {"type": "object", "properties": {}})
    if schema.get("type", "object") != "object":
        raise wrong(f"{place}.parameters", "an object's schema is expected")
    return Tool(name, description or "", {"type": "object", **schema})


def read_messages(given: Sequence[Mapping[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Messages as templates expect them: contents are strings, arguments of calls are objects."""
    return [_message(each, f"messages[{place}]", settings) for place, each in enumerate(given)]


def _message(given: Mapping[str, Any], place: str, settings: Settings) -> dict[str, Any]:
    role = "system" if given["role"] == "developer" else given["role"]
    found: dict[str, Any] = {"role": role, "content": text_of(given.get("content"), f"{place}.content", settings)}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if given.get(name) is not None:
            found[name] = given[name]
    calls = given.get("tool_calls") or []
    if calls:
        found["tool_calls"] = [
            {
                "id": call.get("id", ""),
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": arguments(call["function"]["arguments"])},
            }
            for call in calls
        ]
    elif role in ("system", "user", "tool") and given.get("content") is None:
        raise wrong(f"{place}.content", "a string or an array is expected")
    return found


def arguments(text: str) -> Any:
    """Arguments of a call as an object; what is no JSON stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def text_of(content: Any, place: str, settings: Settings) -> str:
    """The text of a message's content, a string or parts.

    Raises:
        ApiError: 400, a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part(part, f"{place}[{number}]", settings) for number, part in enumerate(content))


IMAGES = ("image_url", "input_image", "image")


def _part(part: Mapping[str, Any], place: str, settings: Settings) -> str:
    kind = part["type"]
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise wrong(f"{place}.text", "a string is expected")
        return text
    if kind in IMAGES and settings.images == "mention":
        return "[an image is here, which cannot be seen]"
    known = "an image, and no model here sees images" if kind in IMAGES else f"of type {kind!r:.40}"
    raise wrong(place, f"it is {known}; text is read")
