"""Which scheme and which method each tensor gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ggq.convert.options import SchemeOptions
from ggq.convert.plan.pattern import Pattern
from ggq.errors import GGQError, UsageError
from ggq.format.scheme import COLUMN_STEP, ROW, Scheme, round_up
from ggq.format.scheme_names import parse_filled
from ggq.models.family import TensorSpec
from ggq.quant import Method, choose_method, default_method, parse_scheme
from ggq.quant.methods import fills

EMBEDDING_BITS = 6
"""The embedding and the output get at least this many bits by default: with 4 the divergence triples."""

F32 = parse_scheme("f32")

EMBEDDING_ROLES = ("embedding.weight", "output.weight")

F16, TABLE_ROLES = parse_scheme("f16"), ("positions.weight", "types.weight")
"""Tables that are added to every token's row stay f16: they are small, and an error in them is in every product."""

ROUTER_ROLES = (".experts.router.weight", ".experts.shared_share.weight")
"""Ends of the roles of matrices that choose among experts; they stay f32: a small error sends a token elsewhere."""


@dataclass(frozen=True)
class Rule:
    """Tensors whose names match a regular expression get a scheme.

    Args:
        pattern: Searched for in a tensor's name.
        scheme: What a matrix gets whose name matches.
        method: Name of its method; None for the recipe's.
        origin: Who said so, for messages: "--keep REGEX=SCHEME", or a file and the rule's number.
    """

    pattern: Pattern
    scheme: Scheme
    method: str | None
    origin: str


@dataclass(frozen=True)
class Recipe:
    """A scheme for the body, one for the embedding and the output, and rules that come before both.

    Args:
        scheme: Of the body's matrices.
        embedding: Of the embedding and the output.
        rules: The first that matches a matrix's name decides.
        method: Of every quantized tensor for which nothing else is said; None for each scheme's default.
        embedding_method: Of the embedding and the output; None for `method`.
        activations: How inputs of quantized matrices are rounded to int8 when they are: "group", "token" or "static".
        exact: Whether matrices that a checkpoint has as codes and scales keep their numbers where a scheme can.
    """

    scheme: Scheme
    embedding: Scheme
    rules: tuple[Rule, ...] = ()
    method: str | None = None
    embedding_method: str | None = None
    activations: str = "group"
    exact: bool = False
    _methods: dict[tuple[Scheme, str | None], Method] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def choose(self, spec: TensorSpec, exact: tuple[str, str] | None = None) -> tuple[Scheme, Method | None]:
        """A tensor's scheme and method (None where the scheme stores floats).

        Args:
            spec: The tensor.
            exact: Names of a scheme and a method that keep every number of it, if there are any.

        Norms and biases stay f32: they are a thousandth of the bytes. A group larger than the padded row becomes `row`.

        Raises:
            ConvertError: The method cannot fill the scheme.
        """
        if len(spec.shape) < 2:
            return F32, None
        rule = next((rule for rule in self.rules if rule.pattern.search(spec.name)), None)
        if rule is not None:
            scheme, method = rule.scheme, rule.method
        elif exact is not None and self.exact:
            scheme = fit_group(parse_filled(exact[0])[0], spec.shape[-1])
            return scheme, self.find_method(scheme, exact[1])
        elif spec.role in TABLE_ROLES:
            return F32 if self.scheme == F32 else F16, None
        elif spec.role.endswith(ROUTER_ROLES):
            return F32, None
        elif spec.role in EMBEDDING_ROLES:
            scheme, method = self.embedding, self.embedding_method
        else:
            scheme, method = self.scheme, None
        if scheme.kind == "float":
            return scheme, None
        scheme = fit_group(scheme, spec.shape[-1])
        return scheme, self.find_method(scheme, method)

    def find_method(self, scheme: Scheme, method: str | None) -> Method:
        """What fills a scheme: the method that a rule names or, without one, the recipe's; each is looked up once.

        Raises:
            ConvertError: No such method, or one that cannot fill the scheme.
        """
        key = scheme, method or self.method
        if key not in self._methods:
            self._methods[key] = choose_method(*key)
        return self._methods[key]

    @property
    def body_method(self) -> str:
        """The method of the body, "none" where it stores floats."""
        return "none" if self.scheme.kind == "float" else self.method or default_method(self.scheme)


def fit_group(scheme: Scheme, columns: int) -> Scheme:
    """The scheme with one group for a whole row where a group would be larger than the padded row."""
    return replace(scheme, group=ROW) if scheme.group > round_up(columns, COLUMN_STEP) else scheme


def make_recipe(
    scheme: str,
    method: str | None = None,
    embedding: str | None = None,
    keep: Sequence[str] = (),
    activations: str = "group",
) -> Recipe:
    """The recipe that options ask for.

    Args:
        scheme: Name of the body's scheme.
        method: Name of a method, or None for each scheme's default.
        embedding: Name of the embedding's and the output's scheme; None for the body's, with EMBEDDING_BITS or more.
        keep: REGEX=SCHEME each.
        activations: How inputs are rounded to int8.

    Raises:
        UsageError: An unknown scheme, a regular expression that does not compile, a method where nothing is quantized.
        ConvertError: An unknown method, or one that cannot fill a scheme.
    """
    return complete_recipe(
        named_scheme(scheme, method),
        method,
        None if embedding is None else named_scheme(embedding),
        parse_rules(keep),
        activations,
    )


Named = tuple[Scheme, str | None]
"""A scheme, and the method that was named for it or by it."""


def named_scheme(name: str, method: str | None = None) -> Named:
    """The scheme of a name, and the method: the one that the name says, as "nf4-g64" does, or the one asked for.

    Raises:
        UsageError: No such scheme, or the two methods contradict each other.
    """
    scheme, filled = parse_filled(name)
    if filled is not None and method is not None and filled not in method.split("+"):
        raise UsageError(f"scheme {name} is filled by method {filled}, not by {method}")
    return scheme, method or filled


def complete_recipe(
    body: Named,
    method: str | None,
    outer: Named | None,
    rules: Sequence[Rule],
    activations: str = "group",
    origin: str = "",
) -> Recipe:
    """The recipe with what was left open filled in.

    Args:
        body: Of the body's matrices.
        method: What was asked for everywhere; None for each scheme's default.
        outer: Of the embedding and the output; None for the body's scheme with EMBEDDING_BITS or more.
        rules: As in `Recipe`.
        activations: As in `Recipe`.
        origin: For messages; see `check_methods`.

    Raises:
        UsageError: A method where nothing is quantized.
        ConvertError: An unknown method, or one that cannot fill a scheme.
    """
    scheme, own = body
    embedding, other = (embedding_scheme(scheme), None) if outer is None else outer
    if own != method:  # the name of the body's scheme says the method of the body and of nothing else
        other = other or default_method(embedding) or None
        rules = [replace(rule, method=rule.method or default_method(rule.scheme) or None) for rule in rules]
    if outer is None and other is None and embedding.kind != "float" and own and not fills(embedding, own):
        # Nobody asked for this scheme, so the method need not know it; of "nf4+gptq" the second part may.
        last = own.rpartition("+")[2]
        other = last if fills(embedding, last) else default_method(embedding)
    recipe = Recipe(scheme, embedding, tuple(rules), own, other, activations)
    check_methods(recipe, origin)
    return recipe


def embedding_scheme(body: Scheme) -> Scheme:
    """What the embedding and the output get where nobody says: the body's scheme with EMBEDDING_BITS or more."""
    if body.kind == "float" or body.bits >= EMBEDDING_BITS:
        return body
    return replace(body, kind="uniform", bits=EMBEDDING_BITS)


def parse_rules(keep: Sequence[str]) -> tuple[Rule, ...]:
    """Rules written REGEX=SCHEME, in their order."""
    return tuple(parse_rule(text) for text in keep)


def parse_rule(text: str) -> Rule:
    """A rule written REGEX=SCHEME."""
    pattern, separator, name = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError(f"--keep must be REGEX=SCHEME, not {text!r}", fix='for example --keep "down_proj=q6-g32"')
    return Rule(compile_pattern(pattern, f"--keep {text}"), *parse_filled(name), f"--keep {text}")


def compile_pattern(pattern: str, origin: str) -> Pattern:
    """A rule's regular expression, which takes time in proportion to a name's length.

    Raises:
        UsageError: It does not compile, is no Unicode text, or needs what takes more time.
    """
    try:
        pattern.encode()
        return Pattern(pattern, origin)
    except (re.error, RecursionError, OverflowError, UnicodeEncodeError) as error:
        raise UsageError(f"{origin}: not a regular expression: {error}") from None


def check_methods(recipe: Recipe, origin: str = "") -> None:
    """Refuse methods that have nothing to do or cannot fill what they are asked to.

    Args:
        recipe: Any.
        origin: Put before what is said of anything but rules, which have origins of their own.

    Raises:
        UsageError: A method where floats are stored.
        ConvertError: An unknown method, or one that cannot fill a scheme.
    """
    parts: list[tuple[Scheme, str | None, str]] = [
        (recipe.scheme, None, origin),
        (recipe.embedding, recipe.embedding_method, origin),
        *((rule.scheme, rule.method, rule.origin) for rule in recipe.rules),
    ]
    idle = recipe.method if all(scheme.kind == "float" for scheme, _, _ in parts) else None
    for scheme, own, place in parts:
        prefix = f"{place}: " if place else ""
        if scheme.kind == "float":
            if (name := own or idle) is not None:
                raise UsageError(f"{prefix}method {name} has nothing to do: {scheme.value} stores floats")
            continue
        try:
            recipe.find_method(scheme, own)
        except GGQError as error:
            raise type(error)(prefix + error.problem, fix=error.fix) from None


def check_rules(recipe: Recipe, specs: Sequence[TensorSpec]) -> None:
    """Refuse a rule that matches no matrix, which is a slip of the pen.

    Raises:
        UsageError: The rule, and whether it matches norms or biases only.
    """
    for rule in recipe.rules:
        found = [spec for spec in specs if rule.pattern.search(spec.name)]
        if not found:
            raise UsageError(
                f"{rule.origin}: no tensor's name matches", fix="`ggq convert ... --dry-run` lists the names"
            )
        if all(len(spec.shape) < 2 for spec in found):
            raise UsageError(f"{rule.origin}: only norms and biases match, which stay f32", where=found[0].name)


def check_activations(activations: str) -> str:
    """Refuse a form of inputs that the option of that name does not allow.

    Raises:
        UsageError: The forms that it allows.
    """
    SchemeOptions(activations=activations)
    return activations
