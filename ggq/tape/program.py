"""The tape: a model as a flat list of operations on named buffers, the one form that both interpreters walk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ggq.format.scheme import ROW, Scheme


@dataclass(frozen=True)
class Buffer:
    """A float32 matrix of one row per token of the batch (`rows` = "tokens") or per wanted logit row ("wanted")."""

    name: str
    width: int
    rows: str = "tokens"


@dataclass(frozen=True)
class Embed:
    """out[i] = row tokens[i] of the table, dequantized."""

    table: str
    out: Buffer


@dataclass(frozen=True)
class Norm:
    """out = source / sqrt(mean(source**2) + epsilon) * weight, row by row ("rms")."""

    source: Buffer
    weight: str
    out: Buffer
    epsilon: float
    kind: str = "rms"


@dataclass(frozen=True)
class Linear:
    """outs[j] = source @ weights[j].T + biases[j], or added to outs[j] when `add`; all weights share the source.

    With int8 activations the source is first rounded per activation group (see `activation_group`).
    """

    source: Buffer
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]
    outs: tuple[Buffer, ...]
    add: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotate each head of `buffer` in place by its token's position times `Tape.frequencies`."""

    buffer: Buffer
    heads: int


@dataclass(frozen=True)
class StoreKV:
    """Append key and value rows of this batch to the layer's cache, in the cache's own float type."""

    layer: int
    key: Buffer
    value: Buffer


@dataclass(frozen=True)
class Attention:
    """Causal softmax attention of each row over its own sequence's cache; scores are scaled by `scale`."""

    layer: int
    query: Buffer
    out: Buffer
    scale: float


@dataclass(frozen=True)
class Gate:
    """out = activation(gate) * up, element by element."""

    gate: Buffer
    up: Buffer
    out: Buffer
    activation: str


@dataclass(frozen=True)
class Select:
    """out = the rows of source whose logits are wanted."""

    source: Buffer
    out: Buffer


Op = Embed | Norm | Linear | Rope | StoreKV | Attention | Gate | Select


@dataclass(frozen=True)
class Tape:
    """A whole decoder.

    Args:
        ops: In order of execution; tensors are named by role (spec/metadata.md), e.g. "layers.0.attention.q.weight".
        logits: The buffer that holds the result after the last op.
        layers, heads, kv_heads, head_dim: Sizes of the key-value cache and of attention.
        vocabulary_size: Token ids are below this.
        context_length: Positions are below this.
        frequencies: float64 (head_dim / 2,), radians per position of each rotated pair, scaling included.
        rope_layout: "half" or "pairs".
    """

    ops: tuple[Op, ...]
    logits: Buffer
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    frequencies: np.ndarray
    rope_layout: str


@dataclass(frozen=True)
class Run:
    """Consecutive new tokens of one sequence.

    Args:
        sequence: An id from `Executor.open_sequence`.
        tokens: int32 (n,), appended at the sequence's present length.
        logits: Which rows are wanted: "all", "last" or "none".
    """

    sequence: int
    tokens: np.ndarray
    logits: str = "last"


def activation_group(scheme: Scheme) -> int:
    """Columns of an activation row that share one int8 scale when they meet such a weight; 0 for float weights.

    It is the weight's own group up to 128, so that one multiplication serves both scales; 32 for a scale per row.
    """
    if scheme.kind == "float":
        return 0
    return 32 if scheme.group == ROW else min(max(scheme.group, 32), 128)
