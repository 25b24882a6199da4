"""Numbers: names of schemes, reference encode and decode in plain NumPy, the tile layout and the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggq.format.scheme_names import SCHEMES, parse_scheme, scheme_name
from ggq.quant.error import Error, ErrorSum, error, tensor_error
from ggq.quant.floats import from_float32, to_float32
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.reference import decode
from ggq.quant.tensors import decode_tensor, encode_tensor
from ggq.quant.tiles import pack, unpack

if TYPE_CHECKING:
    from ggq.quant.check import check_segments
    from ggq.quant.methods import METHODS, Method, choose_method, default_method

__all__ = [
    "METHODS",
    "SCHEMES",
    "Error",
    "ErrorSum",
    "Method",
    "QuantizedMatrix",
    "check_segments",
    "choose_method",
    "decode",
    "decode_tensor",
    "default_method",
    "encode_tensor",
    "error",
    "from_float32",
    "pack",
    "parse_scheme",
    "scheme_name",
    "tensor_error",
    "to_float32",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """What converts, checks and compares is imported when it is asked for: a model that only runs starts sooner."""
    if name == "check_segments":
        from ggq.quant.check import check_segments

        return check_segments
    if name in ("METHODS", "Method", "choose_method", "default_method"):
        from ggq.quant import methods

        return getattr(methods, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
