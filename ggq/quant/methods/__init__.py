"""The registry of methods: how codes and scales are chosen. A method never changes the format."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ggq.errors import ConvertError
from ggq.format.scheme import Scheme
from ggq.format.scheme_names import scheme_name
from ggq.quant.inputs import InputStatistics
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.methods.absmax import AbsMax
from ggq.quant.methods.binary import Binary
from ggq.quant.methods.clip import Clip
from ggq.quant.methods.gptq import Gptq
from ggq.quant.methods.hqq import HQQ
from ggq.quant.methods.kmeans import KMeans
from ggq.quant.methods.min_max import MinMax
from ggq.quant.methods.mse import Mse
from ggq.quant.methods.nf4 import NF4
from ggq.quant.methods.ternary import Ternary
from ggq.quant.methods.zero_point import ZeroPoint

SAMPLE_WEIGHTS = 1 << 20
"""Weights, about, from which a method learns what all rows of a tensor share."""


class Method(Protocol):
    """A way to choose codes and scales. Rows are quantized independently of each other, so they may come in blocks."""

    name: str

    def supports(self, scheme: Scheme) -> bool:
        """Whether the method can fill this scheme."""
        ...

    def quantize(self, weights: NDArray[np.float32], scheme: Scheme) -> QuantizedMatrix:
        """Quantize float32 (rows, columns), finite, to a scheme that `supports` accepts."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A method for which the rows of a tensor share something, such as a codebook or what is known of their inputs: it
    is learnt before the first."""

    def prepare(self, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None) -> Method:
        """The method that quantizes this tensor's rows, independently of each other.

        Args:
            sample: float32 (rows, columns): rows at equal distances (`sample_rows`), or all of them.
            scheme: One that `supports` accepts.
            inputs: What is known of the tensor's inputs, or None.
        """
        ...


@runtime_checkable
class Calibrated(Learner, Protocol):
    """A method that has a use for statistics of a matrix's inputs.

    uses: "vectors" for those by column, "gram" for products of columns too.
    requires: Whether it can do nothing without them.
    block_weights: Weights of the rows that it likes to get at once, about.
    """

    uses: str
    requires: bool
    block_weights: int


METHODS: dict[str, Method] = {
    "absmax": AbsMax(),
    "zero-point": ZeroPoint(),
    "min-max": MinMax(),
    "kmeans": KMeans(),
    "nf4": NF4(),
    "ternary": Ternary(),
    "binary": Binary(),
    "mse": Mse(),
    "hqq": HQQ(),
    "clip": Clip(),
    "gptq": Gptq(),
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
            fix=f"use {', '.join(able)} or another scheme" if able else None,
        )
    return METHODS[name]


def prepared(
    method: Method, sample: NDArray[np.float32], scheme: Scheme, inputs: InputStatistics | None = None
) -> Method:
    """What quantizes the rows of one tensor: what a method learnt from a sample of them, or the method itself.

    Weights of the sample that are not finite count as 0; whoever quantizes their row refuses them.
    """
    if not isinstance(method, Learner):
        return method
    return method.prepare(np.where(np.isfinite(sample), sample, np.float32(0)), scheme, inputs)


def block_weights(method: Method) -> int:
    """Weights of the rows that a method likes to get at once, about; 0 where it does not care."""
    return method.block_weights if isinstance(method, Calibrated) else 0


def uses(method: Method) -> str:
    """What statistics of inputs a method has a use for: "", "vectors" or "gram"."""
    return method.uses if isinstance(method, Calibrated) else ""


def sample_rows(rows: int, columns: int) -> NDArray[np.int64]:
    """Numbers of the rows of a tensor that a method learns from: at equal distances, about SAMPLE_WEIGHTS weights."""
    count = min(rows, max(1, SAMPLE_WEIGHTS // columns))
    return np.arange(count, dtype=np.int64) * rows // count
