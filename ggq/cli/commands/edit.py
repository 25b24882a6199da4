"""`ggq edit`: change metadata in place, by an appended index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ggq.cli.layout import paragraph
from ggq.cli.output import one_line, printable
from ggq.errors import UsageError, one_of
from ggq.format import edit_metadata, open_reader

GUARDED = ("model.", "tokenizer.")
"""Beginnings of keys that say how the model is computed."""


def edit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .ggq file; it is changed.", show_default=False)],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What to set.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Type of the values: bool, int, float, string, bytes (hexadecimal) or list (JSON). "
            "By default the type that the key has, else what the value looks like.",
            show_default=False,
        ),
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option("--delete", metavar="KEY", help="Remove a key; may be repeated.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Change also what the model is computed by: model.* and tokenizer.*.")
    ] = False,
) -> None:
    """Change metadata in place, whatever the file's size.

    A new index is appended, so this takes the same time for any file, and a crash leaves the old state or the new one.
    The file's digest changes. `ggq repack` drops what edits leave behind.

    Example:
        ggq edit model.ggq general.name="My model"
        ggq edit model.ggq tokenizer.eos_ids="[2, 7]" --force --delete general.source
    """
    if not changes and not delete:
        raise UsageError("nothing to change", fix="give KEY=VALUE or --delete KEY")
    if kind is not None and kind not in PARSERS:
        raise UsageError(f"--type must be {one_of(PARSERS)}, not {kind!r}")
    with open_reader(file) as reader:
        known: Mapping[str, Any] = reader.metadata
        wanted = dict(_parse(change, kind, known) for change in changes or ())
    both = [key for key in delete or () if key in wanted]
    if both:
        raise UsageError(f"{both[0]!r} cannot be both set and deleted")
    guarded = [key for key in (*wanted, *(delete or ())) if key.startswith(GUARDED)]
    if guarded and not force:
        raise UsageError(
            f"{guarded[0]!r} is what the model is computed by, and a wrong one makes the file useless",
            path=file,
            fix="--force changes it all the same",
        )
    digest = edit_metadata(file, {**wanted, **dict.fromkeys(delete or ())})
    for key, value in wanted.items():
        paragraph(f"{printable(key)} = {one_line(value)}")
    for key in delete or ():
        paragraph(f"{printable(key)} removed")
    paragraph(f"digest {digest.hex()}")


def _parse(change: str, kind: str | None, known: Mapping[str, Any]) -> tuple[str, Any]:
    """The key and the value that KEY=VALUE stands for."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UsageError(f"{change!r} is not KEY=VALUE")
    if kind is None and key in known:
        kind = _kind(known[key])
    try:
        return key, PARSERS[kind](text) if kind else _guess(text)
    except ValueError as problem:
        raise UsageError(f"{text!r} is no {kind} for {key!r}: {problem}", fix="see --type") from None


def _kind(value: Any) -> str:
    kinds = {bool: "bool", int: "int", float: "float", str: "string", bytes: "bytes"}
    return kinds.get(type(value), "list")


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("write true or false")
    return text == "true"


def _list(text: str) -> list[Any]:
    value = _json(text)
    if not isinstance(value, list):
        raise ValueError('write a JSON list such as [1, 2] or ["a"]')
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _guess(text: str) -> Any:
    """A number, a truth value or a list where it reads as one in JSON, else the text itself."""
    try:
        value = _json(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float, list)) else text


PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": _bool,
    "int": int,
    "float": float,
    "string": str,
    "bytes": bytes.fromhex,
    "list": _list,
}
"""What --type may be, and how it reads a value."""
