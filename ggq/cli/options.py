"""Records of options (`ggq.convert.declare`) as parameters of a command."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from ggq.convert.declare import Declared, declared

F = TypeVar("F", bound=Callable[..., Any])


def command_options(record: type) -> Callable[[F], F]:
    """Give a command that takes **options the options of a record, before its other options.

    Args:
        record: Its fields are made by `ggq.convert.declare.option`.
    """
    options = [each for each in declared(record) if not each.python_only]

    def decorate(function: F) -> F:
        own = list(inspect.signature(function, eval_str=True).parameters.values())
        arguments = [each for each in own if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        others = [each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY]
        made = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hint(each))
            for each in options
        ]
        parameters = [*arguments, *made, *others]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        return function

    return decorate


def hint(option: Declared) -> Any:
    """The annotation from which typer makes an option."""
    flag = f"--{option.name.replace('_', '-')}"
    text = option.help
    if get_origin(_kinds(option.type)[0]) is not None and option.metavar:
        text += " May be repeated."
    return Annotated[
        command_type(option.type), typer.Option(flag, metavar=option.metavar, help=text, show_default=False)
    ]


def command_type(type_: Any) -> Any:
    """What the command line reads for a type of Python's: Path for a path, a list for a sequence, else the first."""
    kinds = _kinds(type_)
    if any(get_origin(kind) is os.PathLike for kind in kinds):
        return Path | None
    if get_origin(kinds[0]) is Sequence:
        return list[str] | None
    return bool if kinds[0] is bool else kinds[0] | None


def _kinds(type_: Any) -> list[Any]:
    """The types of a union, None aside."""
    parts = get_args(type_) if isinstance(type_, types.UnionType) else [type_]
    return [kind for kind in parts if kind is not type(None)]
