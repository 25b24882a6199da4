"""What a server may be told, with the defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
"""Hosts that are always answered to: this machine."""


@dataclass(frozen=True)
class Adapter:
    """LoRA adapters that requests ask for by a name of their own.

    Args:
        model: Name of the model that they belong to.
        folders: FOLDER or FOLDER=WEIGHT of each.
    """

    model: str
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Args:
        models: Files by the names that requests use.
        aliases: More names of them.
        adapters: LoRA adapters by the names that requests use.
        keys: Of these a client must have one; none lets everybody in.
        hosts: Names besides this machine's own that a request's Host may have; "*" for any.
        origins: Web pages that may ask from a browser: "https://chat.example", "*" for any without keys.
        cache_memory: Bytes of keys, values and states of a model; None for what the machine has left less a reserve.
        share: Of their rate that sequences which decode keep while prompts are read, above 0 and at most 1.
        most_running: Sequences that are computed at once at most.
        most_waiting: Requests of a model at most, which wait or run; more are refused with 429.
        most_body: Bytes of a request's body at most.
        most_choices: Most `n` and `best_of`.
        timeout: Seconds that a request may take.
        ping: Seconds of silence in a stream after which a comment is sent.
        grace: Seconds that running requests have when the server ends.
        idle: Seconds without a request after which a model is unloaded; 0 keeps it.
        images: "refuse", or "mention": an image, which no model here sees, becomes words that say so.
        web: Whether the pages / and /status are there.
        load: Passed on to `ggq.load`: threads, activations, cache, context, allow_longer.
    """

    models: Mapping[str, Path]
    aliases: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    keys: Sequence[str] = ()
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    cache_memory: int | None = None
    share: float = 0.5
    most_running: int = 64
    most_waiting: int = 256
    most_body: int = 16 << 20
    most_choices: int = 16
    timeout: float = 3600.0
    ping: float = 10.0
    grace: float = 8.0
    idle: float = 0.0
    images: str = "refuse"
    web: bool = True
    load: Mapping[str, object] = field(default_factory=dict)


class Options(TypedDict, total=False):
    """The settings that a caller may give by name; `tests/test_python.py` holds it to `Settings`."""

    aliases: Mapping[str, str]
    adapters: Mapping[str, Adapter]
    keys: Sequence[str]
    hosts: Sequence[str]
    origins: Sequence[str]
    cache_memory: int | None
    share: float
    most_running: int
    most_waiting: int
    most_body: int
    most_choices: int
    timeout: float
    ping: float
    grace: float
    idle: float
    images: str
    web: bool
    load: Mapping[str, object]


def takes_settings(function: F) -> F:
    """Have `help` show the settings of a function that takes them as **options, with their defaults and meaning."""
    own = list(inspect.signature(function).parameters.values())[:-1]
    given = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default if each.default_factory is MISSING else each.default_factory(),
            annotation=each.type,
        )
        for each in fields(Settings)
        if each.name != "models"
    ]
    function.__signature__ = inspect.Signature([*own, *given])  # type: ignore[attr-defined]
    _, _, described = (Settings.__doc__ or "").partition("        models: Files by the names that requests use.\n")
    function.__doc__ = (function.__doc__ or "").replace("{options}", described.strip())
    return function
