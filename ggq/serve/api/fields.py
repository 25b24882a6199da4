"""Fields that requests of several interfaces share, and how they become options of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggq.serve.errors import refused

LARGEST = 1 << 53
"""Whole numbers that JSON can carry."""


def obj(required: Sequence[str] = (), **properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has no other fields."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def number(low: float, high: float, text: str = "") -> dict[str, Any]:
    """A number or null."""
    return {"type": ["number", "null"], "minimum": low, "maximum": high, **({"description": text} if text else {})}


def count(low: int, high: int = LARGEST, text: str = "") -> dict[str, Any]:
    """A whole number or null."""
    return {"type": ["integer", "null"], "minimum": low, "maximum": high, **({"description": text} if text else {})}


FLAG: dict[str, Any] = {"type": ["boolean", "null"]}
TEXT: dict[str, Any] = {"type": ["string", "null"]}
OBJECT: dict[str, Any] = {"type": ["object", "null"]}
MODEL: dict[str, Any] = {"type": ["string", "null"], "maxLength": 512}
STOP: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 1024},
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 1024}, "maxItems": 16},
        {"type": "null"},
    ]
}

SAMPLING: dict[str, dict[str, Any]] = {
    "temperature": number(0, 100, "0 takes the most likely token; without it the model's own."),
    "top_p": number(0, 1),
    "top_k": count(-1, text="0 or -1 for all."),
    "min_p": number(0, 1),
    "seed": count(-LARGEST),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "repetition_penalty": number(0.01, 100),
    "repeat_penalty": number(0.01, 100, "llama-server's name of repetition_penalty."),
    "logit_bias": {
        "type": ["object", "null"],
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "description": "What is added to the logits, by token id.",
    },
    "stop": STOP,
}
"""Fields of every interface of OpenAI's that samples."""

GRAMMARS: dict[str, dict[str, Any]] = {
    "regex": {**TEXT, "maxLength": 65536, "description": "What the whole answer must match."},
    "lark": {**TEXT, "maxLength": 1 << 20, "description": "A grammar in llguidance's form of Lark."},
    "json_schema": {"type": ["object", "null"], "description": "What the answer, JSON, must fit."},
}


def sampling_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the engine from the fields of SAMPLING and GRAMMARS."""
    found = {name: body[name] for name in ("temperature", "top_p", "min_p") if name in body}
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "regex", "lark", "json_schema"):
        if name in body:
            found[name] = body[name]
    if "repeat_penalty" in body:
        found.setdefault("repetition_penalty", body["repeat_penalty"])
    if "top_k" in body:
        found["top_k"] = max(0, int(body["top_k"]))
    if "seed" in body:
        found["seed"] = int(body["seed"]) % (1 << 64)
    if "stop" in body:
        found["stop"] = [body["stop"]] if isinstance(body["stop"], str) else list(body["stop"])
    if body.get("logit_bias"):
        found["logit_bias"] = _biases(body["logit_bias"])
    return found


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    found = {}
    for token, bias in given.items():
        if not token.isascii() or not token.isdecimal() or len(token) > 10:
            raise refused(f"logit_bias: {token!r:.40} is no token id", "logit_bias")
        found[int(token)] = float(bias)
    return found
