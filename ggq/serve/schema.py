"""Checks a request against its schema: the part of JSON Schema that the served interface is written in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ggq.errors import one_of
from ggq.serve.errors import ApiError, refused

Schema = Mapping[str, Any]

NAMES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int,),
}
DEEPEST = 32
"""Levels of a body; a schema of an answer or of a tool counts."""


def check(value: Any, schema: Schema, place: str = "") -> None:
    """Refuse a value that a schema does not allow.

    Args:
        value: Parsed JSON.
        schema: type, enum, minimum, maximum, exclusiveMinimum, minLength, maxLength, minItems, maxItems, items,
            properties, required, additionalProperties and anyOf are heeded.
        place: Of the value in the body: "messages[0].content".

    Raises:
        ApiError: 400, with the place of the first mistake.
    """
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], place)
        return
    if "type" in schema:
        kinds = kinds_of(schema)
        if not any(is_kind(value, kind) for kind in kinds):
            raise wrong(place, f"{one_of([_article(kind) for kind in kinds])} is expected, not {_shown(value)}")
    if "enum" in schema and value not in schema["enum"]:
        raise wrong(place, f"{_shown(value)} is none of {', '.join(map(repr, schema['enum']))}")
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        _check_number(value, schema, place)
    elif isinstance(value, str):
        _check_length(len(value), schema, place, "Length", "characters")
    elif isinstance(value, list):
        _check_length(len(value), schema, place, "Items", "items")
        if "items" in schema:
            for number, item in enumerate(value):
                check(item, schema["items"], f"{place}[{number}]")
    elif isinstance(value, dict):
        _check_object(value, schema, place)


def kinds_of(schema: Schema) -> list[str]:
    """The types that a schema names."""
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)


def is_kind(value: Any, kind: str) -> bool:
    """Whether a value has a type of JSON Schema; true and false are no numbers."""
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, NAMES[kind])


def check_depth(value: Any, most: int = DEEPEST) -> None:
    """Refuse JSON that is nested too deeply.

    Raises:
        ApiError: 400.
    """
    level = [value]
    for _ in range(most):
        level = [item for each in level for item in _inside(each)]
        if not level:
            return
    raise refused(f"the body is nested more than {most} levels deep")


def wrong(place: str, problem: str) -> ApiError:
    """A mistake at a place."""
    return refused(f"{place or 'the body'}: {problem}", param=place or None)


def _inside(value: Any) -> Sequence[Any]:
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict | list)]


def _check_any(value: Any, schemas: Sequence[Schema], place: str) -> None:
    """Refuse what none allows; the mistake told is that of the branch that came farthest."""
    problems: list[ApiError] = []
    for schema in schemas:
        try:
            check(value, schema, place)
            return
        except ApiError as problem:
            problems.append(problem)
    farthest = max(problems, key=lambda problem: (len(problem.param or ""), "expected" not in problem.message))
    if (farthest.param or "") == place:
        kinds = [kind for schema in schemas for kind in kinds_of(schema)]
        if kinds and not any(is_kind(value, kind) for kind in kinds):
            names = one_of(dict.fromkeys(map(_article, kinds)))
            raise wrong(place, f"{names} is expected, not {_shown(value)}")
    raise farthest


def _check_number(value: float, schema: Schema, place: str) -> None:
    if not math.isfinite(value):
        raise wrong(place, "a finite number is expected")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and value < low:
        raise wrong(place, f"{value:g} is less than {low:g}")
    if high is not None and value > high:
        raise wrong(place, f"{value:g} is more than {high:g}")


def _check_length(count: int, schema: Schema, place: str, word: str, unit: str) -> None:
    low, high = schema.get(f"min{word}"), schema.get(f"max{word}")
    if low is not None and count < low:
        raise wrong(place, f"{count} {unit} are fewer than {low}" if low > 1 else f"at least one of {unit} is needed")
    if high is not None and count > high:
        raise wrong(place, f"{count} {unit} are more than {high}")


def _check_object(value: Mapping[str, Any], schema: Schema, place: str) -> None:
    before = f"{place}." if place else ""
    for name in schema.get("required", ()):
        if name not in value:
            raise refused(f"{before}{name} is missing", param=f"{before}{name}")
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            check(item, known[name], f"{before}{name}")
        elif more is False:
            raise refused(f"{before}{name} is not known here", param=f"{before}{name}", code="unknown_parameter")
        elif isinstance(more, Mapping):
            check(item, more, f"{before}{name}")


def _article(kind: str) -> str:
    return {"null": "null"}.get(kind, f"{'an' if kind[0] in 'aeio' else 'a'} {kind}")


def _shown(value: Any) -> str:
    return f"{value!r:.60}" if isinstance(value, str | int | float | bool | None) else _article_of(value)


def _article_of(value: Any) -> str:
    return _article(next(name for name, kinds in NAMES.items() if isinstance(value, kinds)))
