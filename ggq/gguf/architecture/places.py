"""Where in a GGUF file the numbers of each role are: a tensor, rows of one, or a matrix of a stack.

The numbers of a role have a name of their own, which says the same for all files: that of a tensor that holds nothing
else, `blk.0.ffn_gate.3.weight` for a matrix of expert 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

Shape = tuple[int, ...]

STEMS = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "attention.o": "attn_output",
    "attention.sinks": "attn_sinks",
    "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "mlp_post_norm": "post_ffw_norm",
    "experts_norm": "ffn_norm",
    "experts.router": "ffn_gate_inp",
    "experts.shared_share": "ffn_gate_inp_shexp",
    "experts.shared.gate": "ffn_gate_shexp",
    "experts.shared.up": "ffn_up_shexp",
    "experts.shared.down": "ffn_down_shexp",
}
"""Names of a layer's tensors by the middle of their roles."""

OUTER = {"embedding": "token_embd", "positions": "position_embd", "norm": "output_norm", "output": "output"}

QKV = {f"attention.{part}": "attn_qkv" for part in "qkv"}
GATE_UP = {"mlp.gate": "ffn_up", "mlp.up": "ffn_up"}
"""What some architectures keep in one tensor, one below the other in the order of the roles."""


@dataclass(frozen=True)
class Names:
    """How an architecture's tensors differ from the usual.

    Args:
        stems: Other names of modules.
        fused: Modules whose rows are in one tensor, and its name.
        stacked: Whether the matrices of a layer's experts are one tensor each.
    """

    stems: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)
    stacked: bool = True


@dataclass(frozen=True)
class Place:
    """Where the numbers of a role are.

    Args:
        tensor: Name of the tensor.
        first: Rows of it before them; numbers, for a bias.
        shape: Of the numbers.
    """

    tensor: str
    first: int
    shape: Shape


def _split(role: str) -> tuple[str, str, str]:
    """The layer with its prefix ("" outside), the middle, and the kind of a role."""
    stem, _, kind = role.rpartition(".")
    if stem == "" or kind not in ("weight", "bias"):  # such as "layers.0.attention.sinks"
        stem, kind = role, "weight"
    if not stem.startswith("layers."):
        return "", stem, kind
    _, layer, middle = stem.split(".", 2)
    return f"blk.{layer}.", middle, kind


def tensor_name(role: str, names: Names = Names()) -> str:
    """The name of a role's numbers.

    Raises:
        KeyError: A role that no architecture has.
    """
    layer, middle, kind = _split(role)
    if not layer:
        return f"{OUTER[middle]}.{kind}"
    stems = {**STEMS, **names.stems}
    if middle not in stems and middle.startswith("experts."):
        _, expert, matrix = middle.split(".")
        return f"{layer}{STEMS[f'mlp.{matrix}']}.{int(expert)}.{kind}"
    return f"{layer}{stems[middle]}.{kind}"


def places(shapes: Mapping[str, Shape], names: Names) -> dict[str, Place]:
    """Where the numbers of each role are, by role.

    Args:
        shapes: Of the roles, those of a fused tensor in the order of its rows.
        names: Of the architecture.
    """
    found: dict[str, Place] = {}
    before: dict[str, int] = {}
    for role, shape in shapes.items():
        layer, middle, kind = _split(role)
        name = tensor_name(role, names)
        if middle in names.fused:
            name = f"{layer}{names.fused[middle]}.{kind}"
        elif names.stacked and layer and middle.startswith("experts.") and middle.split(".")[1].isdecimal():
            name = f"{layer}{STEMS['mlp.' + middle.split('.')[2]]}_exps.{kind}"
        found[role] = Place(name, before.get(name, 0), shape)
        before[name] = before.get(name, 0) + shape[0]
    return found


def whole_shapes(found: Iterable[Place]) -> dict[str, Shape]:
    """The shapes of the tensors that places are in, matrices of a stack one below the other."""
    shapes: dict[str, Shape] = {}
    for place in found:
        shapes[place.tensor] = (place.first + place.shape[0], *place.shape[1:])
    return shapes


def holds(stored: Shape, expected: Shape) -> bool:
    """Whether a tensor's shape is the expected one, or a stack whose matrices or vectors make it."""
    if stored == expected or (1, *stored) == expected:
        return True
    return len(stored) == len(expected) + 1 and (prod(stored[: -len(expected) + 1 or None]), *stored[2:]) == expected
