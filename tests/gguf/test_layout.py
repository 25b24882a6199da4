"""Bits of blocks are moved to where the reference lays them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggq.format.gguf.types import TYPES
from ggq.gguf import container, layout
from ggq.gguf.blocks import MATRICES
from ggq.gguf.container import GGUFModel
from ggq.gguf.layout import MOVED, packed
from ggq.quant.matrix import geometry
from ggq.quant.tiles import view_matrix
from tests.gguf.test_blocks import blocks_of
from tests.gguf.test_model import WIDE, keys_of, llama, quantized
from tests.kit.gguf_files import write_gguf

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("kind", sorted(MOVED), ids=lambda kind: TYPES[kind].name)
def test_every_bit_is_where_numpy_lays_it(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """37 rows, two whole tiles and a part of one, in their order and in another, a chunk a tile."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1)
    workers = layout.Workers()
    blocks = np.concatenate([blocks_of(kind)] * 10)[:37]
    blocks[5:30] = np.random.default_rng(1).permuted(blocks[5:30], axis=0)
    raw, shape = blocks.reshape(-1), (37, 3 * TYPES[kind].numbers)
    for order in (None, np.random.default_rng(2).permutation(37)):
        expected = packed(kind, blocks if order is None else blocks[order])
        scheme = MATRICES[kind](blocks).scheme
        sizes = geometry(scheme, shape)
        memory = {part: np.full(length, 0xAA, np.uint8) for part, length in sizes.lengths.items()}
        view = view_matrix(scheme, sizes, memory, 0)

        def read(start: int, out: np.ndarray) -> None:
            out[:] = raw[start : start + len(out)]

        layout.move(kind, shape, order, view, read, workers)
        for mine, other in zip((*view.tiled, *view.shared), (*expected.tiled, *expected.shared), strict=True):
            np.testing.assert_array_equal(mine.view(np.uint8), other.view(np.uint8))
    workers.close()


def test_what_a_thread_raises_is_raised() -> None:
    workers = layout.Workers()

    def work(start: int) -> None:
        if start == 30:
            raise KeyError(start)

    with pytest.raises(KeyError):
        workers.run(work, range(100))
    workers.close()


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_a_model_is_the_same_by_kernels_and_by_numpy(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GGUFModel(write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), quantized(llama(WIDE), kind)))
    slow = {name: model.segments(name) for name in model.tensors}
    monkeypatch.setattr(container, "LEAST_BYTES", 0)
    for name, segments in slow.items():
        for part, data in model.segments(name).items():
            np.testing.assert_array_equal(data, segments[part])
    model.close()
