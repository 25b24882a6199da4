"""Whole models whose many tokens are computed by tiles of bf16, where kernels are compiled for AMX.

tests/kernels/test_amx.py runs these tests, too, on processors that have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.format.scheme import FLOAT_BYTES
from ggq_kernels.code import permission
from ggq_kernels.run import calls
from ggq_kernels.vector.isa import AMX
from tests.engine.test_numba import FLOAT32_DRIFT, TOKENS, largest_difference, opened, run
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_demo, write_ggq

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(not AMX, reason="kernels are not compiled for AMX; tests/kernels/test_amx.py runs this"),
]

NAMES = ("q4-g32", "q8-g64", "q3m-g32-s6", "c4-g64", "f16", "bf16")
LONG = (TOKENS * 4)[:140]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    made = {name: folder / f"{name}.ggq" for name in NAMES}
    for name, path in made.items():
        write_demo(path, name)
    return made


def rows(path: Path, runs: list[list[int]], interpreter: str = "numba", **options: Any) -> np.ndarray:
    """Logits of some texts in one batch."""
    with opened(path, interpreter, **options) as executor:
        if interpreter == "numpy" and options.get("activations") != "float32":
            executor.bf16_from = calls.bf16_from()
        return np.asarray(executor.forward([run(executor.open_sequence(), text) for text in runs]))


@pytest.mark.parametrize("name", NAMES)
def test_many_tokens_are_those_of_numpy_but_for_numbers_on_the_edge(files: dict[str, Path], name: str) -> None:
    """As with int8: float32 drift moves few activations across an edge of bf16, so that most tokens, each a sequence of
    its own, agree as float32 does; where some did move, two roundings of the same activations are compared."""
    texts, cache = [[token] for token in TOKENS], {"cache": "f32"}
    fast, slow = rows(files[name], texts, **cache), rows(files[name], texts, "numpy", **cache)
    exact = rows(files[name], texts, "numpy", activations="float32", **cache)
    assert np.linalg.norm(fast - slow) < 2 * np.linalg.norm(slow - exact)
    drift = np.abs(fast - slow).max(axis=1) / np.abs(slow).max(axis=1)
    assert (drift < FLOAT32_DRIFT).mean() > 0.5
    assert largest_difference(slow, exact) > 10 * FLOAT32_DRIFT  # they were rounded


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FLOAT_BYTES])
def test_many_tokens_are_nearer_to_float32_than_with_int8(
    files: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, tiles = rows(files[name], [LONG], activations="float32"), rows(files[name], [LONG])
    monkeypatch.setattr(permission, "tiles_allowed", lambda: False)
    int8 = rows(files[name], [LONG])
    assert np.linalg.norm(tiles - exact) < 0.7 * np.linalg.norm(int8 - exact)


@pytest.mark.parametrize("name", ["q4-g32", "f16"])
def test_few_tokens_are_computed_as_without_tiles(
    files: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (rows(files[name], [LONG[:n]]) for n in (calls.BF16_TOKENS - 1, calls.BF16_TOKENS))
    monkeypatch.setattr(permission, "tiles_allowed", lambda: False)
    np.testing.assert_array_equal(few, rows(files[name], [LONG[: len(few)]]))
    assert (many != rows(files[name], [LONG[: len(many)]])).any()


@pytest.mark.parametrize("name", ["q4-g32", "f16"])
def test_threads_cuts_and_batches_of_many_tokens_change_no_bit(files: dict[str, Path], name: str) -> None:
    """A token is computed alike beside 31 others or more: in a text that is cut, or in a batch of several."""
    whole = rows(files[name], [LONG], threads=1)
    np.testing.assert_array_equal(whole, rows(files[name], [LONG], threads=2))
    with opened(files[name]) as executor:
        sequence = executor.open_sequence()
        parts = [executor.forward([run(sequence, LONG[i : i + 50])]) for i in (0, 50, 100)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(whole, rows(files[name], [LONG, LONG[:40]])[: len(LONG)])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["q4-g32+scale+order", "f16"])
def test_small_models_with_columns_that_fill_no_tile(config: str, name: str, tmp_path: Path) -> None:
    path = write_ggq(tmp_path / "m.ggq", CONFIGS[config], checkpoint(CONFIGS[config]), name)
    text = prompt(CONFIGS[config], 40)
    fast, slow = rows(path, [text], cache="f32"), rows(path, [text], "numpy", cache="f32")
    exact = rows(path, [text], "numpy", activations="float32", cache="f32")
    assert np.linalg.norm(fast - slow) < 2 * np.linalg.norm(slow - exact)
