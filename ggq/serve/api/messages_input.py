"""The request of /v1/messages: its schema, and what it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggq.serve.api.chat_input import make_tool, text_of
from ggq.serve.api.fields import FLAG, OBJECT, TEXT, count, number, obj
from ggq.serve.errors import refused
from ggq.serve.schema import wrong
from ggq.serve.settings import Settings
from ggq.serve.turn.closed import closed
from ggq.serve.turn.turn import Turn

BLOCK = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": BLOCK}]}
MESSAGE = {
    "type": "object",
    "properties": {"role": {"type": "string", "enum": ["user", "assistant", "system"]}, "content": CONTENT},
    "required": ["role", "content"],
}
TOOLS = {
    "type": ["array", "null"],
    "maxItems": 128,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "description": TEXT,
            "input_schema": OBJECT,
            "type": TEXT,
        },
        "required": ["name"],
    },
}
SHARED: dict[str, Any] = {
    "model": {"type": "string", "maxLength": 512},
    "messages": {"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 10000},
    "system": {"anyOf": [{"type": "string"}, {"type": "array", "items": BLOCK}, {"type": "null"}]},
    "tools": TOOLS,
    "tool_choice": {
        "type": ["object", "null"],
        "properties": {
            "type": {"type": "string", "enum": ["auto", "any", "tool", "none"]},
            "name": TEXT,
            "disable_parallel_tool_use": FLAG,
        },
        "required": ["type"],
    },
    "thinking": {
        "type": ["object", "null"],
        "properties": {
            "type": {"type": "string", "enum": ["enabled", "disabled", "adaptive"]},
            "budget_tokens": count(1),
            "display": TEXT,
        },
        "required": ["type"],
    },
    "cache_control": OBJECT,
    "context_management": OBJECT,
    "output_config": {
        "type": ["object", "null"],
        "properties": {
            "effort": TEXT,
            "format": {
                "type": ["object", "null"],
                "properties": {"type": {"type": "string", "enum": ["json_schema"]}, "schema": {"type": "object"}},
                "required": ["type", "schema"],
            },
        },
    },
    "output_format": OBJECT,
}
COUNT = obj(["model", "messages"], **SHARED)
MESSAGES = obj(
    ["model", "max_tokens", "messages"],
    **SHARED,
    max_tokens=count(1),
    metadata=OBJECT,
    service_tier=TEXT,
    inference_geo=TEXT,
    stop_sequences={
        "type": ["array", "null"],
        "items": {"type": "string", "minLength": 1, "maxLength": 1024},
        "maxItems": 16,
    },
    stream=FLAG,
    temperature=number(0, 2),
    top_p=number(0, 1),
    top_k=count(0),
)


def read_messages_turn(body: Mapping[str, Any], settings: Settings, client: str) -> Turn:
    """The turn that a checked body asks for.

    Raises:
        ApiError: 400, fields contradict each other or cannot be heeded.
    """
    options: dict[str, Any] = {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body}
    options["max_tokens"] = int(body["max_tokens"])
    if body.get("stop_sequences"):
        options["stop"] = list(body["stop_sequences"])
    form = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if form:
        options["json_schema"] = closed(form.get("schema") or {"type": "object"})
    messages = read_blocks(body["messages"], settings)
    if body.get("system"):
        messages.insert(0, {"role": "system", "content": text_of(body["system"], "system", settings)})
    tools = [_tool(each, f"tools[{place}]") for place, each in enumerate(body.get("tools") or [])]
    choice = body.get("tool_choice") or {"type": "auto" if tools else "none"}
    named = {"auto": "auto", "none": "none", "any": "required"}.get(choice["type"]) or choice.get("name")
    if named is None:
        raise refused("tool_choice.name is missing", "tool_choice.name")
    if not tools and named not in ("auto", "none"):
        raise refused("tool_choice needs tools", "tool_choice")
    thinking = body.get("thinking") or {}
    return Turn(
        messages,
        options,
        tools,
        named,
        not choice.get("disable_parallel_tool_use", False),
        continued=messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"),
        thinking={"enabled": True, "disabled": False}.get(thinking.get("type", "")),
        budget=thinking.get("budget_tokens"),
        client=client,
    )


def _tool(given: Mapping[str, Any], place: str) -> Any:
    if given.get("type") not in (None, "custom"):
        raise wrong(f"{place}.type", f"{given['type']!r:.40} is not served here; custom tools are")
    return make_tool(given["name"], given.get("description"), given.get("input_schema"), place)


def read_blocks(given: Sequence[Mapping[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: results of tools are messages of their own."""
    found: list[dict[str, Any]] = []
    for place, message in enumerate(given):
        content, where = message["content"], f"messages[{place}].content"
        if isinstance(content, str):
            found.append({"role": message["role"], "content": content})
            continue
        found += _blocks(message["role"], content, where, settings)
    return found


def _blocks(role: str, blocks: Sequence[Mapping[str, Any]], where: str, settings: Settings) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    texts: list[Mapping[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thought = ""
    for place, block in enumerate(blocks):
        kind = block["type"]
        if kind == "tool_result":
            inner = block.get("content")
            text = text_of(inner, f"{where}[{place}].content", settings) if isinstance(inner, str | list | None) else ""
            found.append({"role": "tool", "tool_call_id": str(block.get("tool_use_id", "")), "content": text})
        elif kind == "tool_use":
            function = {"name": str(block.get("name", "")), "arguments": block.get("input") or {}}
            calls.append({"id": str(block.get("id", "")), "type": "function", "function": function})
        elif kind == "thinking":
            thought += str(block.get("thinking", ""))
        elif kind != "redacted_thinking":
            texts.append(block)
    text = "".join(text_of([block], where, settings) for block in texts)
    if texts or calls or not found:
        message: dict[str, Any] = {"role": role, "content": text}
        if calls:
            message["tool_calls"] = calls
        if thought:
            message["reasoning_content"] = thought
        found.append(message)
    return found
