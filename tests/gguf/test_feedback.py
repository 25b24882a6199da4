"""Levels that make up for each other's errors: nearer where inputs are alike, and what they were where they are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ggq.export.gguf_checkpoint import in_order
from ggq.format.gguf.types import TYPES
from ggq.gguf.blocks import numbers, rows_of
from ggq.gguf.encode import encoders
from ggq.gguf.encode.encoders import FEEDBACK, encoded
from ggq.quant.inputs import InputStatistics

COLUMNS = 512
KINDS = pytest.mark.parametrize("kind", FEEDBACK, ids=lambda kind: TYPES[kind].name)


def statistics(gram: NDArray[np.float64]) -> InputStatistics:
    squares = gram.diagonal().astype(np.float32)
    return InputStatistics(1000, np.sqrt(squares), np.zeros_like(squares), squares, gram.astype(np.float32))


def alike() -> InputStatistics:
    """Inputs of few directions."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1000, 24)) @ rng.standard_normal((24, COLUMNS)) + rng.standard_normal((1000, COLUMNS)) / 4
    return statistics(x.T @ x / 1000)


def weights(rows: int = 40) -> NDArray[np.float32]:
    return (np.random.default_rng(2).standard_normal((rows, COLUMNS)) * 0.1).astype(np.float32)


def decoded(kind: int, data: NDArray[np.uint8], rows: int) -> NDArray[np.float32]:
    return numbers(kind, rows_of(kind, data, (rows, COLUMNS)))


@KINDS
def test_products_are_nearer(kind: int) -> None:
    rows, inputs = weights(), alike()
    assert inputs.gram is not None
    errors = []
    for given in (None, inputs):
        found = decoded(kind, encoded(kind, rows, inputs.mean_square, inputs=given), len(rows)) - rows
        errors.append(float(np.einsum("ri,ij,rj->", found, inputs.gram, found)))
    assert errors[1] < 0.6 * errors[0]


@KINDS
def test_inputs_that_have_nothing_in_common_change_nothing(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what is done only without feedback: the rows' lengths, and how errors count by size."""
    monkeypatch.setattr(encoders, "UPPER_SCALES", {})
    monkeypatch.setattr(encoders, "KNOWN", encoders.UNKNOWN)
    rows, inputs = weights(), statistics(np.diag(np.linspace(1, 2, COLUMNS)))
    data = [encoded(kind, rows, inputs.mean_square, inputs=given) for given in (None, inputs)]
    found = [decoded(kind, each, len(rows)) for each in data]
    assert np.mean(found[0] != found[1]) < 1e-3  # ties


@KINDS
def test_rows_are_independent(kind: int) -> None:
    rows, inputs = weights(), alike()
    whole = encoded(kind, rows, inputs.mean_square, inputs=inputs)
    parts = [encoded(kind, part, inputs.mean_square, inputs=inputs) for part in (rows[:16], rows[16:])]
    found, expected = decoded(kind, np.concatenate(parts), len(rows)), decoded(kind, whole, len(rows))
    assert np.mean(found != expected) < 0.02  # the order of additions of a product


def test_statistics_are_taken_layer_by_layer() -> None:
    taken: list[int] = []
    known = statistics(np.eye(2))

    def layers() -> Iterator[dict[str, InputStatistics]]:
        for number in range(3):
            taken.append(number)
            yield {f"layers.{number}.attention.q.weight": known}
        yield {"head.weight": known}

    find = in_order(layers())
    assert find("embedding.weight") is None and taken == []
    assert find("layers.0.attention.q.weight") is known and taken == [0]
    assert find("layers.0.mlp.up.weight") is None and taken == [0]
    assert find("layers.2.attention.q.weight") is known and taken == [0, 1, 2]
    assert find("head.weight") is None
    with pytest.raises(AssertionError, match="have passed"):
        find("layers.1.attention.q.weight")
