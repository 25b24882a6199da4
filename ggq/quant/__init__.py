"""Numbers: names of schemes, reference encode and decode in plain NumPy, the tile layout and the methods."""

from __future__ import annotations

from ggq.format.scheme_names import SCHEMES, parse_scheme, scheme_name
from ggq.quant.check import check_segments
from ggq.quant.error import Error, ErrorSum, error, tensor_error
from ggq.quant.floats import from_float32, to_float32
from ggq.quant.matrix import QuantizedMatrix
from ggq.quant.methods import METHODS, Method, choose_method, default_method
from ggq.quant.reference import decode
from ggq.quant.tensors import decode_tensor, encode_tensor
from ggq.quant.tiles import pack, unpack

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
