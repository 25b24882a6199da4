"""The registry of methods: how codes and scales are chosen. A method never changes the format."""

from __future__ import annotations

from dataclasses import replace

from ggq.errors import ConvertError, nearest
from ggq.format.scheme import Scheme
from ggq.format.scheme_names import scheme_name
from ggq.quant.methods.absmax import AbsMax
from ggq.quant.methods.clip import Clip
from ggq.quant.methods.fitted import Fitted
from ggq.quant.methods.fixed.binary import Binary
from ggq.quant.methods.fixed.multiples import Multiples
from ggq.quant.methods.fixed.ternary import Ternary
from ggq.quant.methods.fixed.ternary_max import TernaryMax
from ggq.quant.methods.gptq import Gptq
from ggq.quant.methods.hqq import HQQ
from ggq.quant.methods.kmeans import KMeans
from ggq.quant.methods.min_max import MinMax
from ggq.quant.methods.mse import Mse
from ggq.quant.methods.protocol import Calibrated, Learner, Method, block_weights, prepared, sample_rows, uses
from ggq.quant.methods.published import MXFP4, NF4, NF4_TABLE
from ggq.quant.methods.transforms.awq import Awq
from ggq.quant.methods.transforms.chain import Chain
from ggq.quant.methods.transforms.order import Order
from ggq.quant.methods.transforms.smoothquant import SmoothQuant
from ggq.quant.methods.transforms.transform import Transform
from ggq.quant.methods.zero_point import ZeroPoint

METHODS: dict[str, Method] = {
    "absmax": AbsMax(),
    "zero-point": ZeroPoint(),
    "min-max": MinMax(),
    "kmeans": KMeans(),
    "nf4": NF4(),
    "mxfp4": MXFP4(),
    "ternary": Ternary(),
    "ternary-max": TernaryMax(),
    "binary": Binary(),
    "mse": Mse(),
    "hqq": HQQ(),
    "multiples": Multiples(),
    "clip": Clip(),
    "gptq": Gptq(),
}
"""Every method, by name; the first that supports a scheme is its default."""


TRANSFORMS: dict[str, Transform] = {
    "awq": Awq(),
    "smoothquant": SmoothQuant(),
    "order": Order(),
}
"""What may come before a method in a chain such as `order+awq+gptq`."""

FOLLOWERS = {"awq": "clip"}
"""What rounds behind a transform when the chain ends with it; elsewhere the scheme's default method."""

EIGHT_BITS = 8
"""Bits at which a search for steps gains nothing over the plain method."""

CODEBOOKS = ("nf4", "kmeans")
"""Methods that may come before another one that rounds, to say where its codebook comes from."""


def default_method(scheme: Scheme) -> str:
    """Name of the method that fills a scheme unless another is asked for; "" for floats, which need none."""
    return next((name for name, method in METHODS.items() if method.supports(scheme)), "")


def choose_method(scheme: Scheme, name: str | None = None) -> Method:
    """The method of this name, or the scheme's default.

    Args:
        scheme: A scheme of codes.
        name: A name of METHODS, or names joined by "+": transforms, then one of METHODS that rounds; "nf4" or "kmeans"
            before another method of METHODS says where its codebook comes from.

    Raises:
        ConvertError: No such method, or one that cannot fill the scheme.
    """
    name = default_method(scheme) if name is None else name
    chosen = _chain(scheme, name, *method_parts(name))
    if not chosen.supports(scheme):
        able = [other for other, method in METHODS.items() if method.supports(scheme)]
        if scheme.transform:
            able = [each for each, found in TRANSFORMS.items() if scheme.transform <= {found.kind}]
        raise ConvertError(
            f"method {name} cannot fill scheme {scheme_name(scheme)}",
            fix=f"use {', '.join(able)} or another scheme" if able else None,
        )
    return chosen


def fills(scheme: Scheme, name: str) -> bool:
    """Whether there is such a method and it can fill a scheme."""
    try:
        choose_method(scheme, name)
    except ConvertError:
        return False
    return True


def method_parts(name: str) -> tuple[list[str], list[str]]:
    """The transforms of a method's name, and the methods behind them.

    Raises:
        ConvertError: No such method, or names joined in a way that means nothing.
    """
    parts = name.split("+")
    for part in parts:
        if part not in METHODS and part not in TRANSFORMS:
            known = [*METHODS, *TRANSFORMS]
            raise ConvertError(f"unknown method {part!r}; allowed are {', '.join(known)}", fix=nearest(part, known))
    found = [part for part in parts if part in TRANSFORMS]
    rest = [part for part in parts if part not in TRANSFORMS]
    if parts != found + rest or len(set(parts)) < len(parts):
        raise ConvertError(f"method {name}: transforms come first, each once", fix="write order+awq+gptq, for example")
    if len(rest) > 2 or (len(rest) == 2 and not (rest[0] in CODEBOOKS and isinstance(METHODS[rest[1]], Fitted))):
        raise ConvertError(
            f"method {name}: only one method can round",
            fix="write transforms and one method, as in awq+gptq, or where a codebook comes from, as in nf4+gptq",
        )
    return found, rest


def _chain(scheme: Scheme, name: str, found: list[str], rest: list[str]) -> Method:
    """The method that transforms and the methods behind them are together."""
    plain = replace(scheme, transform=frozenset())
    if not rest:
        rest = [FOLLOWERS.get(found[-1]) or default_method(plain)]
    rounding = METHODS[rest[-1]]
    if rest[:-1]:
        assert isinstance(rounding, Fitted)  # as method_parts has seen to
        codebook = NF4_TABLE if rest[0] == "nf4" else None
        rounding = replace(rounding, codebook=codebook)
        if not METHODS[rest[0]].supports(plain):
            rounding = METHODS[rest[0]]  # whose refusal says why
    if not found and not rest[:-1]:
        return rounding
    # A transform found for plain rounding does not suit steps that are searched for: it takes care of ranges that the
    # search cuts off anyway (docs/notes/calibrated.md).
    searched = isinstance(rounding, Fitted) and plain.bits < EIGHT_BITS
    plainer = METHODS["mse" if searched else default_method(plain)]
    return Chain(name, tuple(TRANSFORMS[part] for part in found), rounding, plainer)


__all__ = [
    "FOLLOWERS",
    "METHODS",
    "TRANSFORMS",
    "Calibrated",
    "Chain",
    "Learner",
    "Method",
    "Transform",
    "block_weights",
    "choose_method",
    "default_method",
    "fills",
    "method_parts",
    "prepared",
    "sample_rows",
    "uses",
]
