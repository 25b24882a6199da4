"""Every family against transformers' logits: whole and token by token, in batches, cut back, converted, rounded.

The logits of tests/golden/families.npz are transformers' in float64, except that it takes norms and angles of rotations
in float32 there too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.convert import convert
from ggq.format import open_reader
from ggq.models.build import role_shapes
from ggq.models.layers.layered import LayeredSpec, StreamedSpec
from ggq.models.metadata import from_metadata, to_metadata
from ggq.models.names import Plus, Tensor
from ggq.models.registry import FAMILIES
from ggq.tape.ops.activations import CLAMPED
from tests.kit.checkpoints import TEXT, tiny
from tests.kit.family_models import (
    FACTS,
    TOLERANCE,
    checkpoint,
    error,
    expected,
    forward,
    last_logits,
    opened,
    spec_of,
    write_checkpoint,
)
from tests.kit.small_families import FAMILIES as CONFIGS
from tests.kit.small_families import LAST, through_all_experts
from tests.kit.small_models import made, write_ggq
from tests.kit.support import ROOT

INTERPRETERS = ["numpy", pytest.param("numba", marks=pytest.mark.kernels)]


def errors_of(mixer: Any) -> int:
    """Rounded inputs of a layer whose errors add, where a result of attention has the three of value, output and, by
    the softmax, less than one of query and key. Gates are factors and count. In a scan queries meet keys without a
    softmax, and a norm behind makes up for the length: their product is a share of 1 / sqrt(key_dim) of what it could
    be, so the error of each counts key_dim times."""
    if mixer.kind == "hybrid":
        return 1 + errors_of(mixer.scan)
    sizes = {"delta": "key_dim", "mamba2": "state_size"}
    if mixer.kind in sizes:
        return 6 + 2 * int(getattr(mixer, sizes[mixer.kind]))
    return {"gated_attention": 5, "conv": 6, "latent_attention": 8}.get(mixer.kind, 4)


def clamped(part: Any) -> int:
    """The errors that a clamped SwiGLU adds: (u + 1) * g * sigmoid(1.702 g), past its bend, has that of g twice."""
    return 2 * (part is not None and part.activation == CLAMPED)


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, interpreter: str, tmp_path: Path) -> None:
    """A prompt past every window beside shorter ones; then the same with its last ten tokens decoded, in a file."""
    path = write_ggq(tmp_path / "m.ggq", CONFIGS[name], checkpoint(name))
    with opened(path, interpreter, cache="f32") as executor:
        assert error(last_logits(executor, name), name) < TOLERANCE
        prompts = FACTS["models"][name]["prompts"]
        whole, short = executor.open_sequence(), executor.open_sequence()
        steps = [forward(executor, [(whole, prompts[0][:80], "all")])[-16:]]
        forward(executor, [(short, prompts[1][:27], "none")])
        for number in range(10):
            both = [(whole, prompts[0][80 + number :][:1], "last"), (short, prompts[1][27 + number :][:1], "last")]
            steps.append(forward(executor, both))
        decoded = np.concatenate([steps[0], *(step[:1] for step in steps[1:])])
        beside = np.concatenate([step[1:] for step in steps[-LAST[1] :]])
        assert error([decoded, beside, expected(name)[2]], name) < TOLERANCE


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_truncated_and_a_forked_sequence_go_on_as_new_ones(name: str, interpreter: str, tmp_path: Path) -> None:
    """Past the window too: where that has let go of positions, fewer tokens are kept and are computed again."""
    path = write_ggq(tmp_path / "m.ggq", CONFIGS[name], checkpoint(name))
    tokens, want = FACTS["models"][name]["prompts"][0], expected(name)[0][-10:]
    with opened(path, interpreter, cache="f32") as executor:
        sequence = executor.open_sequence()
        forward(executor, [(sequence, tokens[:85], "none")])
        kept = executor.truncate(sequence, 80)
        assert kept <= 80
        twin = executor.fork(sequence)
        for each in (sequence, twin):
            found = forward(executor, [(each, tokens[kept:], "all")])[-10:]
            assert np.abs(found - want).max() < TOLERANCE * np.abs(expected(name)[0]).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_converted_checkpoint_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    """Its weights in float32, its norms as the model multiplies with them."""
    report = convert(write_checkpoint(tmp_path / "m", name), tmp_path / "m.ggq", scheme="f32")
    family, spec = spec_of(name)
    constants = {each for known in family.tensors(spec) if not known.role for each in known.expression.names()}
    assert set(report.ignored) <= constants and not report.unread_keys
    with opened(tmp_path / "m.ggq", "numpy") as executor:
        assert error(last_logits(executor, name), name) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_transforms_that_are_folded_keep_the_model(name: str, tmp_path: Path) -> None:
    """Scales and orders of columns go into norms, values and feed-forwards, also those between norms: in 8 bits they
    leave about the error of 8 bits without. Calibration runs the model layer by layer on windows of a text."""
    tiny(tmp_path / "m")  # for its tokenizer
    folder, tokens = write_checkpoint(tmp_path / "m", name, 320, through_all_experts(name)), list(range(5, 60))
    (tmp_path / "text.txt").write_text(TEXT)
    calibration = {"calibration": tmp_path / "text.txt", "calibration_tokens": 600}
    found = {}
    for key, options in {
        "exact": {"scheme": "f32"},
        "plain": {"scheme": "q8-g32"},
        "folded": {"scheme": "q8-g32", "method": "order+smoothquant+mse", **calibration},
    }.items():
        convert(folder, tmp_path / "m.ggq", force=True, **options)
        with opened(tmp_path / "m.ggq", "numpy", cache="f32", activations="float32") as executor:
            found[key] = forward(executor, [(executor.open_sequence(), tokens, "all")])
    with open_reader(tmp_path / "m.ggq") as reader:
        assert any("folded" in entry.attributes for entry in reader.tensors.values())
    plain, folded = (np.linalg.norm(found[key] - found["exact"]) for key in ("plain", "folded"))
    assert 0 < folded < 2 * plain


@pytest.mark.parametrize(
    ("interpreter", "scheme"),
    [
        ("numpy", "q8-g32"),
        *(pytest.param("numba", scheme, marks=pytest.mark.kernels) for scheme in ("q8-g32", "q4-g32")),
    ],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_int8_activations_differ_as_much_as_their_rounding(
    name: str, interpreter: str, scheme: str, tmp_path: Path
) -> None:
    """Inputs are rounded to int8 before every product, with at most half a step, 1 / 254 of the largest of a group.

    For a group of 32 numbers of one spread the root mean square of that, to the numbers' own, is 1 / 254 * sqrt(4 / 3)
    times about 2.2 (the largest of 32 over the root mean square), 0.6 %. The errors of the products behind each other,
    4 a layer and one at the end, are independent: sqrt(4 * layers + 1) times as much, and twice that is allowed for
    what norms, soft caps and attention make of it; `errors_of` counts those of other mixers. That the weights are
    quantized is in both results. A root mean square is over all rows: a prompt of five tokens alone may lie above.
    """
    path = write_ggq(tmp_path / "m.ggq", through_all_experts(name), checkpoint(name), scheme)
    with opened(path, "numpy", cache="f32", activations="float32") as executor:
        exact = last_logits(executor, name)
    with opened(path, interpreter, cache="f32", activations="int8") as executor:
        rounded = last_logits(executor, name)
    spec = spec_of(name)[1]
    own = 3 * len(spec.layers) if isinstance(spec, LayeredSpec) and spec.inputs else 0  # gate, table and o of inputs
    if isinstance(spec, StreamedSpec):  # both of laurel, two routers and what they give, and a product of each stream
        own += 6 * len(spec.layers) + 2 * (spec.streams - 1)
    factors = own + sum(errors_of(layer.mixer) + clamped(layer.feed_forward) for layer in spec.layers)
    bound = 2 * 0.006 * np.sqrt(factors + 1)
    got, want = np.concatenate(rounded), np.concatenate(exact)
    assert 0 < np.linalg.norm(got - want) / np.linalg.norm(want) < bound


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tensors_are_those_of_transformers(name: str) -> None:
    family, spec = spec_of(name)
    stored = [each for each in family.tensors(spec) if each.role]
    found, there = {name for each in stored for name in each.expression.names()}, set(FACTS["models"][name]["tensors"])
    constants = {name for each in family.tensors(spec) if not each.role for name in each.expression.names()}
    assert found <= there <= found | constants
    assert [each.role for each in stored] == list(role_shapes(spec))
    assert len({each.name for each in stored}) == len(stored)


@pytest.mark.parametrize("name", CONFIGS)
def test_metadata_gives_the_model_back(name: str) -> None:
    family, spec = spec_of(name)
    metadata = to_metadata(spec, family.names[0])
    assert from_metadata(metadata) == spec
    kept = {layer.split(".")[2] for layer in metadata if layer.startswith("model.layer.")}
    assert len(kept) == len(set(spec.layers))  # layers that are equal are kept once


def test_an_expression_reads_the_whole_tensor() -> None:
    """A norm of Gemma's keeps its name in the file, and its weights are what the model multiplies with."""
    family, spec = spec_of("gemma2")
    (norm,) = [each for each in family.tensors(spec) if each.role == "norm.weight"]
    assert norm.expression == Plus(Tensor("model.norm.weight"), 1.0) and norm.name == "model.norm.weight"
    assert np.array_equal(made(norm, {"model.norm.weight": np.full(40, 0.5, np.float32)}), np.full(40, 1.5, np.float32))


def test_a_family_is_a_short_file_that_says_how_it_differs_from_llama() -> None:
    files = sorted((ROOT / "ggq" / "models" / "families").rglob("[!_]*.py"))
    assert len(files) == len(FAMILIES)
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        # some are more than a difference from Llama
        most = {"recurrent": 190, "experts": 150, "gemma": 170}.get(file.parent.name, 60)
        assert len(lines) <= most and lines[0].startswith('"""') and "Llama" in lines[0], file.name
