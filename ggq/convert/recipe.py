"""Which scheme and which method each tensor gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ggq.errors import UsageError
from ggq.format.scheme import COLUMN_STEP, ROW, Scheme, round_up
from ggq.models.architecture import TensorSpec
from ggq.quant import choose_method, default_method, parse_scheme

EMBEDDING_BITS = 6
"""The embedding and the output get at least this many bits unless told otherwise: with 4 the divergence triples."""

EMBEDDING_ROLES = ("embedding.weight", "output.weight")


@dataclass(frozen=True)
class Rule:
    """Tensors whose names match a regular expression get a scheme."""

    pattern: re.Pattern[str]
    scheme: Scheme
    text: str


@dataclass(frozen=True)
class Recipe:
    """A scheme for the body, one for the embedding and the output, and rules that come before both.

    Args:
        scheme: Of the body's matrices.
        embedding: Of the embedding and the output.
        rules: The first that matches a matrix's name decides.
        method: Of every quantized tensor; None for each scheme's default.
    """

    scheme: Scheme
    embedding: Scheme
    rules: tuple[Rule, ...]
    method: str | None

    def choose(self, spec: TensorSpec) -> tuple[Scheme, str]:
        """A tensor's scheme and method ("" where the scheme stores floats).

        Norms and biases stay f32: they are a thousandth of the bytes. A group larger than the padded row becomes `row`.

        Raises:
            ConvertError: The method cannot fill the scheme.
        """
        if len(spec.shape) < 2:
            return parse_scheme("f32"), ""
        scheme = next((rule.scheme for rule in self.rules if rule.pattern.search(spec.name)), None)
        if scheme is None:
            scheme = self.embedding if spec.role in EMBEDDING_ROLES else self.scheme
        if scheme.kind == "float":
            return scheme, ""
        if scheme.group > round_up(spec.shape[-1], COLUMN_STEP):
            scheme = replace(scheme, group=ROW)
        return scheme, choose_method(scheme, self.method).name

    @property
    def body_method(self) -> str:
        """The method of the body, "none" where it stores floats."""
        return "none" if self.scheme.kind == "float" else self.method or default_method(self.scheme)


def make_recipe(
    scheme: str, method: str | None = None, embedding: str | None = None, keep: Sequence[str] = ()
) -> Recipe:
    """The recipe that options ask for.

    Args:
        scheme: Name of the body's scheme.
        method: Name of a method, or None for each scheme's default.
        embedding: Name of the embedding's and the output's scheme; None for the body's, with EMBEDDING_BITS or more.
        keep: REGEX=SCHEME each.

    Raises:
        UsageError: An unknown scheme, a regular expression that does not compile, a method where nothing is quantized.
        ConvertError: An unknown method, or one that cannot fill the body's scheme.
    """
    body = parse_scheme(scheme)
    rules = tuple(parse_rule(text) for text in keep)
    if embedding is not None:
        outer = parse_scheme(embedding)
    elif body.kind == "float" or body.bits >= EMBEDDING_BITS:
        outer = body
    else:
        outer = replace(body, kind="uniform", bits=EMBEDDING_BITS)
    quantized = [each for each in (body, outer, *(rule.scheme for rule in rules)) if each.kind != "float"]
    if method is not None and not quantized:
        raise UsageError(f"method {method} has nothing to do: {scheme} stores floats", fix="leave --method out")
    for each in quantized:
        choose_method(each, method)
    return Recipe(body, outer, rules, method)


def parse_rule(text: str) -> Rule:
    """A rule written REGEX=SCHEME."""
    pattern, separator, name = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError(f"--keep {text}: REGEX=SCHEME expected", fix='for example --keep "down_proj=q6-g32"')
    try:
        return Rule(re.compile(pattern), parse_scheme(name), text)
    except re.error as error:
        raise UsageError(f"--keep {text}: not a regular expression: {error}") from None


def check_rules(recipe: Recipe, specs: Sequence[TensorSpec]) -> None:
    """Refuse a rule that matches no matrix, which is a slip of the pen.

    Raises:
        UsageError: The rule, and whether it matches norms or biases only.
    """
    for rule in recipe.rules:
        found = [spec for spec in specs if rule.pattern.search(spec.name)]
        if not found:
            raise UsageError(
                f"--keep {rule.text}: no tensor's name matches", fix="`ggq convert ... --dry-run` lists the names"
            )
        if all(len(spec.shape) < 2 for spec in found):
            raise UsageError(f"--keep {rule.text}: only norms and biases match, which stay f32", where=found[0].name)
