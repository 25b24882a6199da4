"""Weights outside f16's range: refused by name where f16 or its scales would lose them, told where little is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.convert.convert import convert
from ggq.errors import ConvertError
from tests.kit.checkpoints import UP, numbers, replace_tensors
from tests.kit.support import run_ggq

QUERY = "model.layers.1.self_attn.q_proj.weight"


def scaled(folder: Path, name: str, factor: float) -> None:
    """Bring the root mean square of a matrix to a number."""
    weights = numbers(folder / "model.safetensors", name)
    weights *= np.float32(factor / np.sqrt(np.mean(weights.astype(np.float64) ** 2)))
    replace_tensors(folder / "model.safetensors", {name: weights})


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        ("q8-g32", 3e-7),
        ("q8-row", 3e-7),
        ("q6-g32", 3e-7),
        ("q4-g32", 1e-7),
        ("q4z-g32", 1e-7),
        ("q4-g32-s6", 3e-6),
        ("nf4-g32", 1e-7),
        ("f16", 1e-7),
    ],
)
@pytest.mark.parametrize("name", [UP, QUERY])
def test_weights_too_small_for_f16_are_refused_by_name(folder: Path, name: str, scheme: str, size: float) -> None:
    scaled(folder, name, size)
    with pytest.raises(ConvertError) as told:
        convert(folder, folder.parent / "small.ggq", scheme=scheme, embedding="bf16")
    message = str(told.value)
    assert f"tensor {name}: weights of {size:.2g} (root mean square) are too small for " in message
    assert ("too small for f16\n" in message) == (scheme == "f16")
    assert message.endswith(f"--keep '{name.replace('.', chr(92) + '.')}=bf16'")
    assert not (folder.parent / "small.ggq").exists()


@pytest.mark.parametrize("scheme", ["q8-g32", "q4-g32", "q4-g32-s6", "f16"])
def test_weights_that_f16_holds_are_taken(folder: Path, scheme: str) -> None:
    expected = convert(folder, folder.parent / "as_made.ggq", scheme=scheme, embedding="bf16")
    scaled(folder, UP, 1e-3)
    found = convert(folder, folder.parent / "smaller.ggq", scheme=scheme, embedding="bf16")
    for before, after in zip(expected.tensors, found.tensors):
        assert after.relative_rmse < 1.1 * before.relative_rmse + 5e-4, after.name


def test_what_the_refusal_advises_works(folder: Path) -> None:
    scaled(folder, UP, 3e-7)
    out = folder.parent / "kept.ggq"
    done = run_ggq("convert", folder, out, "--scheme", "q8-g32")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 2
    advice = done.stderr.rsplit("--keep '", 1)[1].split("'")[0]
    report = convert(folder, out, scheme="q8-g32", keep=[advice])
    assert next(each for each in report.tensors if each.name == UP).relative_rmse < 0.01


def test_zeros_and_the_smallest_numbers_of_an_f16_checkpoint_are_kept(folder: Path) -> None:
    """Numbers below 2^-14 that f16 holds exactly lose nothing in f16."""
    subnormal = np.random.default_rng(0).integers(-9, 10, numbers(folder / "model.safetensors", UP).shape)
    zeros = np.zeros_like(numbers(folder / "model.safetensors", QUERY))
    exact = (subnormal * 2.0**-24).astype(np.float32)
    replace_tensors(folder / "model.safetensors", {UP: exact, QUERY: zeros})
    out = folder.parent / "exact.ggq"
    report = convert(folder, out, scheme="f16", embedding="bf16")
    assert all(each.relative_rmse == 0 for each in report.tensors if each.name in (UP, QUERY))


def test_a_tensor_of_which_little_is_left_is_told(folder: Path) -> None:
    """Rows with one weight five times as large as the others, at two bits and one scale a row."""
    weights = numbers(folder / "model.safetensors", UP)
    weights[:] = np.where(np.arange(weights.shape[1]) == 5, 5, 1) * np.sign(weights + 1e-9)
    replace_tensors(folder / "model.safetensors", {UP: weights})
    out = folder.parent / "lossy.ggq"
    done = run_ggq("convert", folder, out, "--scheme", "q2-row", "--method", "absmax", "--json")
    document = json.loads(done.stdout)
    errors = {each["name"]: each["relative_rmse"] for each in document["tensors"]}
    assert document["lossy"] == sorted((n for n, e in errors.items() if e > 0.5), key=lambda n: -errors[n])
    assert document["lossy"], errors
    said = run_ggq("convert", folder, out, "--force", "--scheme", "q2-row", "--method", "absmax")
    assert f"{document['lossy'][0]}" in said.stdout and "a relative error above 0.5, little of them" in said.stdout
    fine = ggq.convert(folder, out, scheme="q8-g32", force=True)
    assert fine.lossy() == [] and fine.document()["lossy"] == []
