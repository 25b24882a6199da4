"""The program of a decoder and its RoPE frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ggq.models.build import build_program, role_shapes
from ggq.models.registry import find_architecture
from ggq.models.rope import Llama3, Rope, frequencies
from ggq.tape.program import Buffer
from tests.kit.small_models import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_the_program_reads_exactly_the_tensors_of_the_model(name: str) -> None:
    config = find_architecture(CONFIGS[name]).config(CONFIGS[name])
    read = {role for op in build_program(config).ops for role in op.weights_read()}
    assert read == set(role_shapes(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_buffers_keep_their_shape_and_are_written_before_they_are_read(name: str) -> None:
    config = find_architecture(CONFIGS[name]).config(CONFIGS[name])
    shapes, program = role_shapes(config), build_program(config)
    written: dict[str, Buffer] = {}
    for op in program.ops:
        for buffer in op.reads():
            assert written[buffer.name] == buffer
        for buffer in op.writes():
            assert written.setdefault(buffer.name, buffer) == buffer
        assert len({buffer.rows for buffer in op.buffers()}) == (2 if op.name == "select" else 1)
        for product in op.products():
            for weight, bias, out in zip(product.weights, product.biases, product.outs):
                assert shapes[weight] == (out.width, product.source.width)
                assert bias is None or shapes[bias] == (out.width,)
    assert program.logits.width == config.vocabulary_size and program.logits.rows == "wanted"


def test_plain_frequencies() -> None:
    assert np.allclose(frequencies(Rope(10000.0, "half", 8, None)), [1, 0.1, 0.01, 0.001], rtol=1e-14)


def test_llama3_slows_slow_pairs_keeps_fast_ones_and_blends_between() -> None:
    before = frequencies(Rope(500000.0, "half", 128, None))
    after = frequencies(Rope(500000.0, "half", 128, Llama3(8.0, 1.0, 4.0, 8192)))
    turns = 8192 * before / (2 * math.pi)
    assert np.array_equal(after[turns >= 4], before[turns >= 4])
    assert np.allclose(after[turns <= 1], before[turns <= 1] / 8, rtol=1e-14)
    middle = (turns > 1) & (turns < 4)
    assert middle.any() and ((before / 8 < after) & (after < before))[middle].all()
    assert (np.diff(after) < 0).all()
