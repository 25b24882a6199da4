"""Mixes of types by llama.cpp's names: which matrices of which layers have more bits than the others.

Source: the choices of llama.cpp's quantizer for models without experts, as its files show them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ggq.export.gguf_types import Q6_K, QUANTIZED

Layers = Callable[[int, int], bool]
"""Whether a layer is meant, by its number and how many there are."""


def _all(layer: int, layers: int) -> bool:
    return True


def _first(share: int) -> Layers:
    return lambda layer, layers: layer < layers // share


def _few(count: int) -> Layers:
    return lambda layer, layers: layer < count


def _edges(layer: int, layers: int) -> bool:
    """The first and the last eighth, and every third layer between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


@dataclass(frozen=True)
class Mix:
    """A mix.

    Args:
        base: The type of all matrices that no rule names.
        rules: Of a stem, the layers and the type; the first that fits decides.
        file_type: Its number in "general.file_type".
    """

    base: str
    rules: tuple[tuple[str, Layers, str], ...]
    file_type: int

    def kind(self, name: str, layers: int) -> int:
        """The type of a matrix.

        Args:
            name: In the file: "blk.3.attn_v.weight".
            layers: How many layers there are.
        """
        stem = name.removesuffix(".weight")
        if not stem.startswith("blk."):
            return Q6_K
        _, number, middle = stem.split(".", 2)
        for part, where, kind in self.rules:
            if middle == part and where(int(number), layers):
                return QUANTIZED[kind]
        return QUANTIZED[self.base]


_VALUE, _DOWN, _OUT = "attn_v", "ffn_down", "attn_output"

MIXES: dict[str, Mix] = {
    "q2_k_m": Mix("q2_k", ((_VALUE, _all, "q3_k"), (_DOWN, _all, "q3_k"), (_OUT, _all, "q3_k")), 10),
    "q3_k_s": Mix("q3_k", (), 11),
    "q3_k_m": Mix(
        "q3_k",
        (
            (_VALUE, _few(2), "q5_k"),
            (_VALUE, _all, "q4_k"),
            (_DOWN, _first(16), "q5_k"),
            (_DOWN, _all, "q4_k"),
            (_OUT, _all, "q4_k"),
        ),
        12,
    ),
    "q3_k_l": Mix("q3_k", ((_VALUE, _all, "q5_k"), (_DOWN, _all, "q5_k"), (_OUT, _all, "q5_k")), 13),
    "q4_k_s": Mix("q4_k", ((_VALUE, _few(4), "q5_k"), (_DOWN, _first(8), "q5_k")), 14),
    "q4_k_m": Mix("q4_k", ((_VALUE, _edges, "q6_k"), (_DOWN, _edges, "q6_k")), 15),
    "q5_k_s": Mix("q5_k", (), 16),
    "q5_k_m": Mix("q5_k", ((_VALUE, _edges, "q6_k"), (_DOWN, _edges, "q6_k")), 17),
}
"""What `--mix` can be; the embedding and the output have q6_k."""
