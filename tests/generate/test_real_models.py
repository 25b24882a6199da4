"""Real checkpoints, where the sample models lie beside the repository: every scheme, converted and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.format import open_reader
from ggq.generate.loading import load
from tests.kit.support import ALL, models_schemes, shared

FLOAT32_DRIFT = 5e-6
"""How far float32 moves logits, relative to the largest: see tests/test_engine_numba.py."""

SOME = ("q2z-g64", "q4-g32", "q6-row", "q3m-g64-s6", "c3-g32-s6", "bf16")
"""Schemes that the larger model is run with."""

CASES = [("stories260k", name) for name in models_schemes()]
CASES += [("pylm", name) for name in (models_schemes() if ALL else SOME)]


@pytest.mark.parametrize(("model", "scheme"), CASES)
def test_kernels_agree_with_numpy(model: str, scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ggq"
    ggq.convert(shared("models", model), path, scheme=scheme)
    ids = np.random.default_rng(0).integers(3, 500, 20)
    found = []
    for interpreter in ("numba", "numpy"):
        with load(path, interpreter=interpreter, activations="float32", cache="f32") as opened:
            found.append(opened.logits(ids))
    assert np.abs(found[0] - found[1]).max() < FLOAT32_DRIFT * np.abs(found[1]).max()


@pytest.mark.parametrize("form", ["-g32", "-g64", "-g128", "-row", "z-g32", "z-row"])
@pytest.mark.parametrize("model", ["stories260k", "pylm"])
def test_every_bit_lowers_the_error_of_every_matrix(model: str, form: str, tmp_path: Path) -> None:
    before: dict[str, float] = {}
    for bits in (2, 3, 4, 5, 6, 8):
        path, scheme = tmp_path / f"{bits}.ggq", f"q{bits}{form}"
        ggq.convert(shared("models", model), path, scheme=scheme, embedding=scheme)
        with open_reader(path) as reader:
            attributes = {name: entry.attributes for name, entry in reader.tensors.items() if len(entry.shape) == 2}
        errors = {name: float(str(found["relative_rmse"])) for name, found in attributes.items()}
        assert all(errors[name] < limit for name, limit in before.items())
        before = errors


def test_stories_go_on_as_they_should(tmp_path: Path) -> None:
    path = tmp_path / "stories.ggq"
    ggq.convert(shared("models", "stories260k"), path, scheme="f32")
    with load(path) as model:
        text = model.generate("Once upon a time, there was", max_tokens=40, temperature=0)
    assert text == (
        " a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. She wanted"
    )
