"""The parts of a model to and from a file's metadata (spec/metadata.md).

The keys are the fields of the parts, joined by dots: "model.head.norm.epsilon". Layers that are equal are kept once:
"model.layers" lists, for each layer, the number N of its record "model.layer.N".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ggq.errors import ModelError
from ggq.models.field import Declared, Parts, declared, kinds
from ggq.models.fields import Fields, shown
from ggq.models.layers.layered import LayeredSpec, StreamedSpec
from ggq.models.parts import MOST_LAYERS, ModelSpec, Stack, check
from ggq.models.text.parts import TextSpec

Scalar = bool | int | float | str | list[int] | list[float]

KINDS: dict[str, type[Stack]] = {
    "decoder": ModelSpec,
    "text": TextSpec,
    "layered": LayeredSpec,
    "streamed": StreamedSpec,
}
"""Kinds of models that this version knows."""


def to_metadata(spec: Stack, architecture: str) -> dict[str, Scalar]:
    """The metadata entries of a model.

    Args:
        spec: A checked model.
        architecture: The Hugging Face class name, for people to read; no reader branches on it.

    Returns:
        Keys "model.*" with their values, in the order of the spec's tables.
    """
    kind = next(word for word, each in KINDS.items() if type(spec) is each)
    entries: dict[str, Scalar] = {"model.kind": kind, "model.architecture": architecture}
    _write(entries, "model", spec)
    return entries


def _write(entries: dict[str, Scalar], key: str, part: Any) -> None:
    """Add the entries of a part, its kind first where it has one of its own."""
    kind: Any = type(part)
    if "kind" not in declared(kind) and kinds(kind):
        entries[f"{key}.kind"] = part.kind
    for name, field in declared(kind).items():
        value = getattr(part, name)
        if isinstance(field.declaration, Parts):
            distinct = list(dict.fromkeys(value))
            entries[f"{key}.{name}"] = [distinct.index(each) for each in value]
            for number, each in enumerate(distinct):
                _write(entries, f"{key}.layer.{number}", each)
        elif not field.classes:
            entries[f"{key}.{name}"] = list(value) if isinstance(value, tuple) else value
        elif value is None:
            entries[f"{key}.{name}.kind"] = "none"
        else:
            _write(entries, f"{key}.{name}", value)


def from_metadata(metadata: Mapping[str, object], path: str | os.PathLike[str] | None = None) -> Stack:
    """The model that a file's metadata describes, every value checked.

    Args:
        metadata: The file's metadata.
        path: The file, for the messages.

    Raises:
        ModelError: A key is missing, of the wrong type, out of bounds or contradicts another.
        UnsupportedError: A kind of model or of a part, or a word, that this version does not have.
    """
    if not any(key.startswith("model.") for key in metadata):
        fix = "convert the checkpoint without --generic, if it is of a model that ggq knows"
        raise ModelError("a bundle of tensors without a model: there is nothing to run", path=path, fix=fix)
    values = Fields({key: metadata[key] for key in metadata if key.startswith("model.")}, path)
    spec: Stack = _read(values, KINDS[values.choice("model.kind", tuple(KINDS))], "model")
    return check(spec, path)


def _read(values: Fields, part: type, key: str) -> Any:
    """The part of a class whose entries begin with `key`."""
    found: dict[str, Any] = {}
    for name, field in declared(part).items():
        if isinstance(field.declaration, Parts):
            found[name] = _read_layers(values, field.classes[0], f"{key}.{name}", f"{key}.layer")
        elif field.classes:
            found[name] = _read_part(values, field, f"{key}.{name}")
        else:
            found[name] = field.declaration.read(values, f"{key}.{name}")  # type: ignore[union-attr]
    return part(**found)


def _read_part(values: Fields, field: Declared, key: str) -> Any:
    """The part of one of several kinds, or None."""
    known = field.by_kind()
    if not known:
        return _read(values, field.classes[0], key)
    chosen = known[values.choice(f"{key}.kind", tuple(known))]
    return None if chosen is None else _read(values, chosen, key)


def _read_layers(values: Fields, part: type, key: str, record: str) -> tuple[Any, ...]:
    """The layers that a list of numbers of records names."""
    listed = values.get(key)
    if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
        raise values.error(key, f"{shown(listed)} found, a list of integers expected")
    numbers = list(listed)
    if not 1 <= len(numbers) <= MOST_LAYERS:
        raise values.error(key, f"a list of {len(numbers)} found, 1 to {MOST_LAYERS} layers allowed")
    for number in numbers:
        if isinstance(number, bool | np.bool_) or not isinstance(number, int | np.integer):
            raise values.error(key, f"{shown(number)} found in it, integers expected")
        if not 0 <= number < MOST_LAYERS:
            raise values.error(key, f"{shown(int(number))} found in it, 0 to {MOST_LAYERS - 1} allowed")
    records = {int(number): _read(values, part, f"{record}.{number}") for number in dict.fromkeys(numbers)}
    return tuple(records[int(number)] for number in numbers)
