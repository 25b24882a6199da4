"""Recipes as TOML: the files of `--recipe`, and what a converted file keeps of the recipe that made it."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggq.convert.plan.recipe import (
    Named,
    Recipe,
    Rule,
    check_activations,
    compile_pattern,
    complete_recipe,
    embedding_scheme,
    named_scheme,
)
from ggq.errors import FormatError, GGQError, UsageError
from ggq.format.paths import open_text, os_error
from ggq.models.fields import shown
from ggq.quant import default_method, scheme_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("scheme", "method", "embedding", "embedding_method", "activations", "exact", "rules")
RULE_KEYS = ("match", "scheme", "method")

LARGEST_RECIPE = 4 << 20
"""Bytes of the largest file that is read: a rule for every matrix of a large model takes a twentieth of it."""

MOST_RULES = 1 << 12
MOST_STATES = 200_000
"""States of all regular expressions together, about one a character: some 30 MB, and a second to make them."""

LONGEST_NUMBER = 400
"""Digits of a number that is not read: a recipe has none."""

MOST_DOTS = 16
"""In a line, but for strings and comments: a key of n dots takes memory of n squared."""

_STRINGS = re.compile(rb"\"[^\"\n]*\"|'[^'\n]*'|#[^\n]*")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file.

    Its keys are `scheme`, `method`, `embedding`, `embedding_method`, `activations` (strings, all but the first
    optional, with the meaning of the options of `ggq convert`), `exact` (whether matrices that are codes and scales in
    the checkpoint keep their numbers where a scheme can) and `rules`, an array of tables with `match` (a regular
    expression), `scheme` and, if need be, `method`; the first rule that matches a matrix's name decides.

    Raises:
        GGQError: The file cannot be read.
        FormatError: It is no TOML (the line and column), or not UTF-8, or too large.
        UsageError: An unknown or missing key, a value of the wrong type, an unknown scheme, a regular expression that
            does not compile.
        ConvertError: An unknown method, or one that cannot fill its scheme.
    """
    name = os.fspath(path)
    try:
        with open_text(name) as opened, io.BufferedReader(opened) as file:
            data = file.read(LARGEST_RECIPE + 1)
    except OSError as error:
        raise os_error(error, name, "read") from None
    if len(data) > LARGEST_RECIPE:
        raise FormatError(f"a recipe must not be larger than {LARGEST_RECIPE} bytes", path=name)
    if re.search(rb"[0-9]{%d}" % LONGEST_NUMBER, data.replace(b"_", b"")):
        raise FormatError(f"a number must have fewer than {LONGEST_NUMBER} digits", path=name)
    if any(line.count(b".") > MOST_DOTS for line in _STRINGS.sub(b"", data).splitlines()):
        raise FormatError(f"a key must not have more than {MOST_DOTS} dots", path=name)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8: byte {error.start}", path=name, fix="a recipe is a TOML file") from None
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise FormatError(f"not TOML: {_plain(error)}", path=name) from None
    return _recipe(document, Path(name))


def recipe_text(recipe: Recipe) -> str:
    """A recipe as TOML, with every method by name; reading it back gives a recipe that chooses the same.

    Args:
        recipe: Any.
    """
    lines = [f"scheme = {_quoted(scheme_name(recipe.scheme))}"]
    if (method := recipe.method or default_method(recipe.scheme)) and recipe.scheme.kind != "float":
        lines.append(f"method = {_quoted(method)}")
    lines.append(f"embedding = {_quoted(scheme_name(recipe.embedding))}")
    if recipe.embedding.kind != "float":
        method = recipe.embedding_method or recipe.method or default_method(recipe.embedding)
        lines.append(f"embedding_method = {_quoted(method)}")
    if recipe.activations != "group":
        lines.append(f"activations = {_quoted(recipe.activations)}")
    if recipe.exact:
        lines.append("exact = true")
    if recipe.rules:
        lines += ["rules = [", *(f"    {_rule_text(rule, recipe.method)}," for rule in recipe.rules), "]"]
    return "\n".join(lines) + "\n"


def _rule_text(rule: Rule, method: str | None) -> str:
    parts = [f"match = {_quoted(rule.pattern.pattern)}", f"scheme = {_quoted(scheme_name(rule.scheme))}"]
    if rule.scheme.kind != "float":
        parts.append(f"method = {_quoted(rule.method or method or default_method(rule.scheme))}")
    return f"{{ {', '.join(parts)} }}"


def _quoted(text: str) -> str:
    """A TOML string: between apostrophes where that saves escapes, as regular expressions have many backslashes."""
    if text.isprintable() and "'" not in text and ("\\" in text or '"' in text):
        return f"'{text}'"
    escapes = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text) + '"'


def _recipe(document: Mapping[str, Any], path: Path) -> Recipe:
    _check_keys(document, KEYS, ("scheme",), path, None)
    body = _scheme(document, "scheme", "method", path, None)
    outer = _scheme(document, "embedding", "embedding_method", path, None) if "embedding" in document else None
    if outer is None and "embedding_method" in document:
        outer = embedding_scheme(body[0]), _text(document, "embedding_method", path, None)
    rules = document.get("rules", [])
    if not isinstance(rules, list) or len(rules) > MOST_RULES:
        raise UsageError(f"must be an array of up to {MOST_RULES} tables", path=path, where="rules")
    exact = document.get("exact", False)
    if not isinstance(exact, bool):
        raise UsageError("must be true or false", path=path, where="exact")
    made = complete_recipe(
        body,
        _text(document, "method", path, None) if "method" in document else None,
        outer,
        list(_rules(rules, path)),
        _activations(document, path),
        str(path),
    )
    return replace(made, exact=exact)


def _activations(document: Mapping[str, Any], path: Path) -> str:
    if "activations" not in document:
        return "group"
    try:
        return check_activations(_text(document, "activations", path, None))
    except UsageError as error:
        raise error if error.path else UsageError(error.problem, path=path) from None


def _rules(rules: list[Any], path: Path) -> Iterator[Rule]:
    states = 0
    for number, rule in enumerate(rules, 1):
        made = _rule(rule, number, path)
        states += made.pattern.states
        if states > MOST_STATES:
            problem = f"the regular expressions up to this one need more than {MOST_STATES} states"
            raise UsageError(problem, path=path, where=f"rule {number}", fix="write fewer rules, or shorter ones")
        yield made


def _rule(rule: Any, number: int, path: Path) -> Rule:
    where = f"rule {number}"
    if not isinstance(rule, dict):
        raise UsageError(f"must be a table, not {shown(rule)}", path=path, where=where, fix=_RULE)
    _check_keys(rule, RULE_KEYS, ("match", "scheme"), path, where)
    pattern = _text(rule, "match", path, where)
    origin = f"{path}: {where} ({shown(pattern)})"
    return Rule(compile_pattern(pattern, origin), *_scheme(rule, "scheme", "method", path, where), origin)


_RULE = 'write { match = "down_proj", scheme = "q6-g32" }'


def _check_keys(
    table: Mapping[str, Any], allowed: tuple[str, ...], required: tuple[str, ...], path: Path, where: str | None
) -> None:
    for key in table:
        if key not in allowed:
            raise UsageError(f"unknown key {shown(key)}; the keys are {', '.join(allowed)}", path=path, where=where)
    for key in required:
        if key not in table:
            raise UsageError(f"the key {key!r} is missing", path=path, where=where)


def _text(table: Mapping[str, Any], key: str, path: Path, where: str | None) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        place = f"{where}: {key}" if where else key
        raise UsageError(f"must be a string, not {shown(value)}", path=path, where=place)
    return value


def _scheme(table: Mapping[str, Any], key: str, method: str, path: Path, where: str | None) -> Named:
    """The scheme of a key, and the method of another key or of the scheme's name."""
    name = _text(table, key, path, where)
    asked = _text(table, method, path, where) if method in table else None
    try:
        return named_scheme(name, asked)
    except GGQError as error:
        place = f"{where}: {key}" if where else key
        raise type(error)(error.problem, path=path, where=place, fix=error.fix) from None


def _plain(error: Exception) -> str:
    return str(error) if not isinstance(error, RecursionError) else "nested too deeply"
