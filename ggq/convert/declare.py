"""Options declared once, as fields of frozen records, of which signatures, help and checks are made."""

from __future__ import annotations

import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_type_hints, overload

from ggq.errors import UsageError, nearest, one_of

KEY, WIDTH = "option", 120

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Declared:
    """One option.

    Args:
        help: What it is, a sentence.
        metavar: What the command line calls its value; None for a flag, or for an option of Python alone.
        least, most: The smallest and the largest allowed number; None for no bound.
        above: A bound that is itself not allowed.
        words: The allowed words; none for any.
        python_only: Whether the command line does not have it.
        name, type, default: Those of the field.
    """

    help: str
    metavar: str | None = None
    least: int | None = None
    most: int | None = None
    above: float | None = None
    words: tuple[str, ...] = ()
    python_only: bool = False
    name: str = ""
    type: Any = None
    default: Any = None

    @property
    def allowed(self) -> str:
        """The values that it may have, in words; "" for any."""
        if self.words:
            return one_of(self.words)
        if self.above is not None:
            return f"a number above {self.above:g}"
        if self.least is None:
            return ""
        return f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"

    def allows(self, value: object) -> bool:
        """Whether it may have a value."""
        if self.words:
            return value in self.words
        if self.least is None and self.above is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int if self.above is None else int | float):
            return False
        if self.above is not None:
            return self.above < value and math.isfinite(value)
        return (self.least is None or self.least <= value) and (self.most is None or value <= self.most)


def option(default: Any, help: str, metavar: str | None = None, **more: Any) -> Any:
    """A field of a record of options.

    Args:
        default: Its default.
        help, metavar, more: See `Declared`.
    """
    return field(default=default, metadata={KEY: Declared(help, metavar, **more)})


def declared(record: type) -> tuple[Declared, ...]:
    """The options of a record, in order."""
    types = get_type_hints(record)
    return tuple(
        replace(each.metadata[KEY], name=each.name, type=types[each.name], default=each.default)
        for each in fields(record)
    )


@dataclass(frozen=True, kw_only=True)
class Record:
    """A base of records whose fields are made by `option`.

    Raises:
        UsageError: A value is not allowed.
    """

    def __post_init__(self) -> None:
        for each in declared(type(self)):
            value = getattr(self, each.name)
            if value is not None and not each.allows(value):
                hint = nearest(value, each.words) if isinstance(value, str) else None
                raise UsageError(f"{each.name} must be {each.allowed}, not {value!r}", fix=hint)

    def given(self) -> list[str]:
        """Names of the options that have another value than their default."""
        return [each.name for each in declared(type(self)) if getattr(self, each.name) != each.default]


class takes_options(Generic[P, R]):
    """Make a function whose last argument, `options`, is a record take the record's fields as keyword arguments.

    Its signature shows each of them with type and default, and `{options}` in its docstring becomes their help. Type
    checkers see the same.

    Args:
        record: A record's class.
    """

    def __init__(self, record: Callable[P, R]) -> None:
        self.record = record

    @overload
    def __call__(self, function: Callable[[A, R], T]) -> Callable[Concatenate[A, P], T]: ...
    @overload
    def __call__(self, function: Callable[[A, B, R], T]) -> Callable[Concatenate[A, B, P], T]: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        options, signature = declared(cast(type, self.record)), inspect.signature(function, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "options"]
        known = [each.name for each in options]

        @functools.wraps(function)
        def call(*positional: Any, **keywords: Any) -> Any:
            if len(positional) > len(own):
                name = function.__name__
                raise TypeError(f"{name}() takes {len(own)} positional arguments but {len(positional)} were given")
            others = {each.name: keywords.pop(each.name) for each in own if each.name in keywords}
            for name in keywords:
                if name not in known:
                    raise UsageError(f"there is no option {name!r}; there are {', '.join(known)}")
            return function(*positional, **others, options=self.record(**keywords))  # type: ignore[call-arg]

        shown = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in options
        ]
        call.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
        types = {each.name: each.annotation for each in (*own, *shown)}
        call.__annotations__ = {**types, "return": signature.return_annotation}
        call.__doc__ = described(function.__doc__, options)
        return call


def described(text: str | None, options: Sequence[Declared]) -> str | None:
    """A docstring with the help of options for its line `{options}`."""
    if text is None:  # python -OO
        return None
    lines = []
    for line in text.splitlines():
        if line.strip() != "{options}":
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        for each in options:
            entry = f"{each.name}: {each.help}"
            lines += textwrap.wrap(entry, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ")
    return "\n".join(lines)
