"""Random conversations with tools and reasoning, as chat templates meet them; a seed gives the same ones anywhere."""

from __future__ import annotations

import random
from typing import Any

WORDS = (
    *("", " ", "Hello", "  two  words ", "a\nb\n", "naïve 日本語 🙂", "<b>&amp;</b>", 'say "hi"', "it's", "[INST]"),
    *("\\n {{ x }}", "<think>hm</think>ok", "</think>", "<|im_end|>", "\ttab\r\n", "é̀", "{% if %}", "1e5"),
)
NAMES = ("get_weather", "add", "read.file", "größe")


def values(rng: random.Random, depth: int = 2) -> Any:
    """A value that JSON can hold."""
    kind = rng.randrange(8 if depth else 6)
    if kind < 6:
        return [rng.choice(WORDS), rng.randrange(-9, 10**6), rng.random() * 100, True, False, None][kind]
    inner = [values(rng, depth - 1) for _ in range(rng.randrange(3))]
    return inner if kind == 6 else {f"{rng.choice(NAMES)}{i}": value for i, value in enumerate(inner)}


def tools(rng: random.Random) -> list[dict[str, Any]]:
    """Functions that a model may call, with parameters of several types."""
    kinds = ("string", "integer", "number", "boolean", "array", "object")
    found: list[Any] = []
    for name in rng.sample(NAMES, rng.randrange(1, 3)):
        properties: dict[str, Any] = {}
        for i in range(rng.randrange(3)):
            kind = rng.choice(kinds)
            properties[f"p{i}"] = {"type": kind, "description": rng.choice(WORDS[2:])}
            if kind == "array":
                properties[f"p{i}"]["items"] = {"type": "string"}
            if kind == "string" and rng.random() < 0.5:
                properties[f"p{i}"]["enum"] = ["a", "ü"]
        parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
        found.append({"type": "function", "function": {"name": name, "description": rng.choice(WORDS[2:])}})
        found[-1]["function"]["parameters"] = parameters
    return found


def call(rng: random.Random, number: int) -> dict[str, Any]:
    """A call of a function, its arguments as an object or, now and then, as text."""
    arguments: Any = {f"p{i}": values(rng) for i in range(rng.randrange(3))}
    if rng.random() < 0.2:
        arguments = '{"p0": "x"}'
    function = {"name": rng.choice(NAMES), "arguments": arguments}
    return {"type": "function", "id": f"call{number:05}", "function": function}


def content(rng: random.Random) -> Any:
    """What a message says: text, or parts of which one is text."""
    text = rng.choice(WORDS) + rng.choice(WORDS)
    return [{"type": "text", "text": text}] if rng.random() < 0.1 else text


def conversation(seed: int) -> dict[str, Any]:
    """Keyword arguments of a renderer: messages, and perhaps tools and variables."""
    rng = random.Random(seed)
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        messages.append({"role": rng.choice(("system", "system", "developer")), "content": content(rng)})
    for turn in range(rng.randrange(1, 4)):
        messages.append({"role": "user", "content": content(rng)})
        if rng.random() < 0.05:
            messages[-1]["name"] = "Ann"
        if rng.random() < 0.4:
            calls = [call(rng, 10 * turn + i) for i in range(rng.randrange(1, 3))]
            words = rng.choice((None, "", "let me see"))
            messages.append({"role": "assistant", "content": words, "tool_calls": calls, **thought(rng)})
            for each in calls[: rng.choice((1, 2, 2))]:
                answer = {"role": "tool", "content": content(rng), "tool_call_id": each["id"]}
                messages.append({**answer, "name": each["function"]["name"]})
        if rng.random() < 0.7:
            messages.append({"role": "assistant", "content": content(rng), **thought(rng)})
    found: dict[str, Any] = {"messages": messages, "add_generation_prompt": rng.random() < 0.7}
    found["tools"] = tools(rng) if rng.random() < 0.5 else None
    found["variables"] = {"enable_thinking": rng.random() < 0.5} if rng.random() < 0.4 else {}
    return found


def thought(rng: random.Random) -> dict[str, Any]:
    """Reasoning under one of its names, or none."""
    if rng.random() < 0.5:
        return {}
    return {rng.choice(("reasoning_content", "thinking", "reasoning")): rng.choice((*WORDS, None))}
