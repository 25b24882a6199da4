"""A paged window through the kernels: pages that it has passed are given back, and the logits stay those of NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.generate.loading import load
from ggq.tape.program import Run
from tests.kit.small_families import FAMILIES, family_checkpoint
from tests.kit.small_models import prompt, write_ggq
from tests.kit.support import ROOT

pytestmark = pytest.mark.kernels

FACTS: dict[str, Any] = json.loads((ROOT / "tests" / "golden" / "families.json").read_text())
TOKENS, CHUNK = 900, 90


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_pages_behind_a_window_are_freed_and_never_read(name: str, tmp_path: Path) -> None:
    """Mistral's layers all have windows; of Gemma 2's every other one keeps everything."""
    config: dict[str, Any] = {**FAMILIES[name], "max_position_embeddings": 1024}
    path = write_ggq(tmp_path / "m.ggq", config, family_checkpoint(name, FACTS["models"][name]["tensors"]))
    tokens = np.array(prompt(config, TOKENS), np.int32)
    results = []
    for interpreter in ("numba", "numpy"):
        with load(path, interpreter=interpreter, cache="f32") as model:
            executor: Any = model.executor
            sequence, used, rows = executor.open_sequence(), [], []
            for start in range(0, TOKENS - 5, CHUNK):
                part = tokens[start : min(start + CHUNK, TOKENS - 5)]
                rows.append(executor.forward([Run(sequence, part, "last")]))
                if interpreter == "numba":
                    used.append(executor._pool.used)
            for token in tokens[TOKENS - 5 :]:
                rows.append(executor.forward([Run(sequence, np.array([token]), "last")]))
            results.append(np.concatenate(rows))
            if interpreter == "numba":
                growth = [b - a for a, b in zip(used[-5:], used[-4:])]
                whole = executor.cost(TOKENS)
                assert max(growth) <= max(executor._pool.page_bytes) * 2 and used[-1] <= whole * 1.5
                if name == "mistral":
                    assert used[-1] < 0.6 * TOKENS / executor._page * sum(executor._pool.page_bytes)
                freed = [int((row[: row.nonzero()[0][0]] == 0).sum()) for row in executor._sequences[sequence].tables]
                assert max(freed) > 0 and (min(freed) == 0) == (name == "gemma2")
    assert np.abs(results[0] - results[1]).max() < 1e-4 * np.abs(results[1]).max()
