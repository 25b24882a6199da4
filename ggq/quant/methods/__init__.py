"""The registry of methods: how codes and scales are chosen. A method never changes the format."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError
from ggq.format.scheme import Scheme
from ggq.format.scheme_names import scheme_name
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.methods.absmax import AbsMax
from ggq.quant.methods.zero_point import ZeroPoint


class Method(Protocol):
    """A way to choose codes and scales. Rows are quantized independently of each other, so they may come in blocks."""

    name: str

    def supports(self, scheme: Scheme) -> bool:
        """Whether the method can fill this scheme."""
        ...

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Quantize float32 (rows, columns), finite, to a scheme that `supports` accepts."""
        ...


METHODS: dict[str, Method] = {
    "absmax": AbsMax(),
    "zero-point": ZeroPoint(),
}
"""Every method, by name; the first that supports a scheme is its default."""


def default_method(scheme: Scheme) -> str:
    """Name of the method that fills a scheme unless another is asked for; "" for floats, which need none."""
    return next((name for name, method in METHODS.items() if method.supports(scheme)), "")


def choose_method(scheme: Scheme, name: str | None = None) -> Method:
    """The method of this name, or the scheme's default.

    Raises:
        ConvertError: No such method, or one that cannot fill the scheme.
    """
    name = default_method(scheme) if name is None else name
    if name not in METHODS:
        raise ConvertError(f"unknown method {name!r}; allowed are {', '.join(METHODS)}")
    if not METHODS[name].supports(scheme):
        able = [other for other, method in METHODS.items() if method.supports(scheme)]
        raise ConvertError(
            f"method {name} cannot fill scheme {scheme_name(scheme)}",
            fix=f"use {' or '.join(able)}, or another scheme" if able else None,
        )
    return METHODS[name]
