"""JSON schemas without the properties that nobody named: a model would write some for ever."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

OPEN = ("additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref", "if", "not")
"""What an object's schema says of more properties, or may say elsewhere."""


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema whose objects have the properties that are named and no others; what fits it fits the given one.

    Args:
        schema: Where it says something of further properties it stays as it is, and so does one with "allOf".
    """
    return dict(schema) if '"allOf"' in json.dumps(schema) else _closed(schema)


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), Mapping):
            found[key] = {name: _inside(each) for name, each in schema[key].items()}
    if "items" in schema:
        found["items"] = _inside(schema["items"])
    if "properties" not in schema:
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                found[key] = [_inside(each) for each in schema[key]]
    elif not any(key in schema for key in OPEN):
        found["additionalProperties"] = False
    return found


def _inside(schema: Any) -> Any:
    return _closed(schema) if isinstance(schema, Mapping) else schema
