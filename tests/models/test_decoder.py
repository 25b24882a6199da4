"""The tape of a decoder and its RoPE frequencies."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from ggq.models.config import RopeConfig
from ggq.models.decoder import build_tape, role_shapes
from ggq.models.registry import find_architecture
from ggq.models.rope import frequencies
from ggq.tape.program import Buffer, Embed, Linear, Norm, Select
from tests.kit.small_models import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tape_reads_exactly_the_tensors_of_the_model(name: str) -> None:
    config = find_architecture(CONFIGS[name]).config(CONFIGS[name])
    read: set[str] = set()
    for op in build_tape(config).ops:
        if isinstance(op, Embed):
            read.add(op.table)
        elif isinstance(op, Norm):
            read.add(op.weight)
        elif isinstance(op, Linear):
            read.update(op.weights)
            read.update(bias for bias in op.biases if bias)
    assert read == set(role_shapes(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_buffers_keep_their_shape_and_are_written_before_they_are_read(name: str) -> None:
    config = find_architecture(CONFIGS[name]).config(CONFIGS[name])
    shapes, tape = role_shapes(config), build_tape(config)
    written: dict[str, Buffer] = {}
    for op in tape.ops:
        used = [value for field in fields(op) if isinstance(value := getattr(op, field.name), Buffer)]
        outs = list(op.outs) if isinstance(op, Linear) else [op.out] if hasattr(op, "out") else []
        for buffer in [*used, *outs]:
            assert written.setdefault(buffer.name, buffer) == buffer
        if not isinstance(op, Select):
            assert len({buffer.rows for buffer in [*used, *outs]}) == 1
        if isinstance(op, Linear):
            for weight, bias, out in zip(op.weights, op.biases, op.outs):
                assert shapes[weight] == (out.width, op.source.width)
                assert bias is None or shapes[bias] == (out.width,)
    assert tape.logits.width == config.vocabulary_size and tape.logits.rows == "wanted"


def test_plain_frequencies() -> None:
    rope = RopeConfig(10000.0, "half", "none", 0.0, 0.0, 0.0, 0)
    assert np.allclose(frequencies(rope, 8), [1, 0.1, 0.01, 0.001], rtol=1e-14)


def test_llama3_slows_slow_pairs_keeps_fast_ones_and_blends_between() -> None:
    plain = RopeConfig(500000.0, "half", "none", 0.0, 0.0, 0.0, 0)
    scaled = RopeConfig(500000.0, "half", "llama3", 8.0, 1.0, 4.0, 8192)
    before, after = frequencies(plain, 128), frequencies(scaled, 128)
    turns = 8192 * before / (2 * math.pi)
    assert np.array_equal(after[turns >= 4], before[turns >= 4])
    assert np.allclose(after[turns <= 1], before[turns <= 1] / 8, rtol=1e-14)
    middle = (turns > 1) & (turns < 4)
    assert middle.any() and ((before / 8 < after) & (after < before))[middle].all()
    assert (np.diff(after) < 0).all()
