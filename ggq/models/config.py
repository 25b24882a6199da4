"""A config.json as a family reads it: with the family's defaults, and with every key accounted for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggq.models.field import declaration
from ggq.models.fields import Fields, shown


@dataclass(frozen=True)
class Required:
    """A key without a default: transformers has one, but nobody means it."""


@dataclass(frozen=True)
class OrNull:
    """A key whose null is a value of its own; `default` is what it is when it is left out."""

    default: object = None


@dataclass(frozen=True)
class Only:
    """A key that transformers reads, of which one value alone is supported."""

    value: object


@dataclass(frozen=True)
class Anything:
    """A key that changes nothing that a file of ours is used for, whatever its value."""


REQUIRED, ANY = Required(), Anything()

Keys = Mapping[str, object]
"""What a family's class in transformers reads: by key `REQUIRED`, `ANY`, `OrNull`, `Only`, or the default value."""

COMMON: Keys = {
    **dict.fromkeys(
        (
            *("architectures", "model_type", "auto_map", "transformers_version", "name_or_path", "_name_or_path"),
            *("dtype", "torch_dtype", "quantization_config", "use_cache", "initializer_range", "attention_dropout"),
            *("output_hidden_states", "output_attentions", "return_dict", "tie_last_hidden_states"),
            *("attn_implementation", "_attn_implementation", "experts_implementation", "chunk_size_feed_forward"),
            *("id2label", "label2id", "num_labels", "problem_type"),
            *("bos_token_id", "eos_token_id", "pad_token_id"),  # read by ggq.convert.source.tokens
        ),
        ANY,
    ),
    "is_encoder_decoder": Only(False),
    "is_causal": Only(True),
    "per_layer_config": Only(None),
}
"""What transformers reads of every model's config.json (PreTrainedConfig, masks, generation) besides its own keys."""

ROPE: Keys = {
    "rope_parameters": OrNull(),
    "rope_scaling": OrNull(),
    "rope_theta": 10000.0,
    "partial_rotary_factor": Only(1.0),
    "original_max_position_embeddings": OrNull(),
}
"""The places of rotary position embedding; see docs/sources.md, S-1 to S-4."""


class Inner(Fields):
    """An object in a config.json, whose keys are noted as they are read."""

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields.values, fields.path, fields.prefix)
        self.seen: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self.seen.add(key)
        return super().__contains__(key)

    def get(self, key: str, default: object = None) -> object:
        self.seen.add(key)
        return super().get(key, default)


class Config(Fields):
    """A config.json whose keys are noted as they are read.

    Args:
        values: The parsed file.
        keys: What the family reads.
        path: That file, for the messages.
    """

    def __init__(self, values: Mapping[str, object], keys: Keys, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(values, path)
        self.keys = keys
        self.seen: set[str] = set()
        self.overruled: dict[str, None] = {}
        self.inside: list[Inner] = []

    def get(self, key: str, default: object = None) -> object:
        """The value, or the family's default where it is left out or null; None where null is a value of its own."""
        self.seen.add(key)
        known, value = self.keys[key], self.values.get(key)
        if isinstance(known, OrNull):
            return value if key in self.values else known.default
        if value is not None:
            return value
        if isinstance(known, Required):
            raise self.error(key, "missing")
        return _neutral(known)

    def take(self, key: str, part: type, name: str) -> Any:
        """The value of a key, which becomes the field of a part and has its bounds."""
        return declaration(part, name).read(self, key)

    def maybe(self, key: str, part: type, name: str) -> Any:
        """The same, None where the key has no value or the family has no such key."""
        return None if key not in self.keys or self.get(key) is None else self.take(key, part, name)

    def inner(self, key: str) -> Inner:
        """The object under a key."""
        inner = Inner(super().inner(key))
        self.seen.add(key)
        self.inside.append(inner)
        return inner

    def overrule(self, key: str, value: object) -> None:
        """Note a key that another place overrules, as in transformers; unless it says the same, nobody read it."""
        self.seen.add(key)
        if key in self and self.values[key] != value:
            self.overruled[key] = None

    def unread(self) -> tuple[str, ...]:
        """The keys that mean nothing, after all others were read.

        Raises:
            UnsupportedError: transformers reads one that nobody read here, and it has another value than the only
                supported one.
        """
        found = dict(self.overruled)
        for key, value in self.values.items():
            if key in self.seen:
                continue
            known = self.keys.get(key, self)
            if known is self:
                found[key] = None
            elif not isinstance(known, Anything) and value is not None and value != _neutral(known):
                allowed = json_like(_neutral(known))
                raise self.unsupported(key, f"{json_like(value)} is not supported; supported: {allowed}")
        for inner in self.inside:
            found |= {f"{inner.prefix}{key}": None for key in inner.values if key not in inner.seen}
        return tuple(found)


def _neutral(known: object) -> object:
    return known.value if isinstance(known, Only) else known.default if isinstance(known, OrNull) else known


def json_like(value: object) -> str:
    """A value as config.json writes it, in short."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else shown(value)
