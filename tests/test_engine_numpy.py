"""The NumPy interpreter against transformers, and its rounding against what the contract of the kernels says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.engine.executor import pieces, wanted_rows
from ggq.engine.numpy_interpreter import NumpyExecutor, round_activations
from ggq.engine.tape import Buffer, Linear, Run, Tape, activation_group
from ggq.errors import UsageError
from ggq.format.scheme import ROW, Scheme
from ggq.models.decoder import build_tape
from ggq.models.registry import find_architecture
from tests.small_models import CONFIGS, checkpoint, prompt, read_checkpoint
from tests.support import DEMO, shared

GOLDEN = Path(__file__).parent / "golden"
FACTS: dict[str, Any] = json.loads((GOLDEN / "facts.json").read_text())
F32 = Scheme("float", 32, "f32")
Q4 = Scheme("uniform", 4, group=32, scale="f16", zero="none")


def executor(hf: dict[str, Any], tensors: Any, *, scheme: Scheme = F32, **options: str) -> NumpyExecutor:
    architecture = find_architecture(hf)
    config = architecture.config(hf)
    names = {spec.role: spec.name for spec in architecture.tensors(config) if spec.role}

    def weights(role: str) -> tuple[Scheme, np.ndarray]:
        values = tensors[names[role]]
        return scheme if values.ndim == 2 else F32, values

    return NumpyExecutor(build_tape(config), weights, **options)


def small(name: str = "grouped", **options: Any) -> NumpyExecutor:
    return executor(CONFIGS[name], checkpoint(CONFIGS[name]), **options)


def trained(folder: Path) -> NumpyExecutor:
    hf = json.loads((folder / "config.json").read_text())
    return executor(hf, read_checkpoint(folder), cache="f32")


def forward(model: NumpyExecutor, tokens: list[int], logits: str = "all") -> np.ndarray:
    return model.forward([run(model.open_sequence(), tokens, logits)])


def run(sequence: int, tokens: list[int], logits: str = "all") -> Run:
    return Run(sequence, np.array(tokens, dtype=np.int32), logits)


GOLDEN_MODELS: dict[str, Callable[[], NumpyExecutor]] = {
    **{name: lambda name=name: small(name, cache="f32") for name in CONFIGS},  # type: ignore[misc]
    "demo": lambda: trained(DEMO),
    "stories260k": lambda: trained(shared("models", "stories260k")),
}


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_logits_are_those_of_transformers(name: str) -> None:
    expected = np.load(GOLDEN / "logits.npz")[name]
    got = forward(GOLDEN_MODELS[name](), FACTS[name]["tokens"])[-FACTS[name]["last"] :]
    # transformers itself takes norms and rotations in float32, also in a model of float64.
    assert np.abs(got - expected).max() < 5e-6 * np.abs(expected).max()


def test_any_cut_of_a_text_into_runs_gives_the_same_logits() -> None:
    model, tokens = small(), prompt(CONFIGS["grouped"], 40)
    whole = forward(model, tokens)
    for cuts in ([1] * 40, [39, 1], [7, 25, 8]):
        sequence, parts, start = model.open_sequence(), [], 0
        for count in cuts:
            parts.append(model.forward([run(sequence, tokens[start : start + count])]))
            start += count
        assert model.length(sequence) == 40
        assert np.allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)


def test_long_runs_are_cut_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = small(), prompt(CONFIGS["grouped"], 50)
    whole, last = forward(model, tokens), forward(model, tokens, "last")
    monkeypatch.setattr("ggq.engine.numpy_interpreter.ROWS", 16)
    assert np.allclose(forward(model, tokens), whole, rtol=0, atol=1e-6)
    assert np.allclose(forward(model, tokens, "last"), last, rtol=0, atol=1e-6)
    assert forward(model, tokens, "none").shape == (0, 64)
    assert forward(small(scheme=Q4, activations="int8"), tokens, "none").shape == (0, 64)


def test_sequences_of_a_batch_do_not_meet() -> None:
    model, config = small("stretched"), CONFIGS["stretched"]
    texts = [prompt(config, count, seed) for seed, count in enumerate((5, 1, 30))]
    alone = [forward(model, text) for text in texts]
    together = model.forward([run(model.open_sequence(), text) for text in texts])
    assert np.allclose(together, np.concatenate(alone), rtol=0, atol=1e-6)
    sequences = [model.open_sequence() for _ in texts]
    model.forward([run(s, text[:-1], "none") for s, text in zip(sequences, texts) if len(text) > 1])
    steps = model.forward([run(s, text[-1:], "last") for s, text in zip(sequences, texts)])
    assert np.allclose(steps, np.stack([logits[-1] for logits in alone]), rtol=0, atol=1e-6)


def test_wanted_rows_and_pieces() -> None:
    runs = [run(1, [1, 2, 3], "last"), run(2, [4, 5], "none"), run(3, [6, 7], "all")]
    assert wanted_rows(runs).tolist() == [2, 5, 6]
    cut = pieces(runs, 2)
    assert [[(r.sequence, r.tokens.tolist(), r.logits) for r in part] for part in cut] == [
        [(1, [1, 2], "none")],
        [(1, [3], "last"), (2, [4], "none")],
        [(2, [5], "none"), (3, [6], "all")],
        [(3, [7], "all")],
    ]


def test_the_cache_is_rounded_to_half_and_not_more() -> None:
    tokens = prompt(CONFIGS["grouped"], 40)
    exact, rounded = forward(small(cache="f32"), tokens), forward(small(cache="f16"), tokens)
    worst = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-6 < worst < 2**-9  # a few half-precision roundings of 2**-11 each


def test_rounded_activations_by_hand() -> None:
    x = np.zeros((1, 40), dtype=np.float32)
    x[0, :3] = 127.0, 0.5, -1.5  # ties go to the even code
    x[0, 32:35] = -254.0, 1.0, 3.0  # a shorter last group, scale 2
    rounded = round_activations(x, 32)
    assert rounded[0, :3].tolist() == [127.0, 0.0, -2.0]
    assert rounded[0, 32:35].tolist() == [-254.0, 0.0, 4.0]
    assert not rounded[0, 3:32].any() and rounded.shape == x.shape


def test_rounded_activations_stay_within_half_a_step_of_each_group() -> None:
    x = np.random.default_rng(0).normal(size=(50, 96)).astype(np.float32)
    error = np.abs(round_activations(x, 32) - x).reshape(50, 3, 32)
    step = np.abs(x).reshape(50, 3, 32).max(axis=2, keepdims=True) / 127
    assert (error <= step * 0.50001).all() and (error.max(axis=2) > step[..., 0] * 0.3).all()


def test_tiny_activations_become_zero_and_not_nan() -> None:
    x = np.array([[1e-45, -1e-40, 0.0, 9e-37]], dtype=np.float32)
    assert not round_activations(x, 32).any()


@pytest.mark.parametrize(("group", "shared_columns"), [(32, 32), (64, 64), (128, 128), (256, 128), (16, 32), (ROW, 32)])
def test_the_activation_group_follows_the_weights(group: int, shared_columns: int) -> None:
    assert activation_group(Scheme("uniform", 4, group=group, scale="f16", zero="none")) == shared_columns


def test_int8_activations_touch_quantized_matrices_alone() -> None:
    source, out = Buffer("hidden", 32), Buffer("logits", 16, "wanted")
    tape = Tape((Linear(source, ("w",), (None,), (out,)),), out, 0, 1, 1, 2, 8, 8, np.ones(1), "half")
    x, w = np.linspace(-1, 1, 32)[None], np.linspace(0.5, 2, 16 * 32, dtype=np.float32).reshape(16, 32)
    results = {}
    for scheme, activations in ((F32, "int8"), (Q4, "int8"), (Q4, "float32")):
        buffers = {source: x}
        model = NumpyExecutor(tape, lambda role, scheme=scheme: (scheme, w), activations)  # type: ignore[misc]
        model._linear(tape.ops[0], buffers)  # type: ignore[arg-type]
        results[scheme.bits, activations] = buffers[out]
    exact = x @ w.T.astype(np.float64)
    assert np.array_equal(results[32, "int8"], exact) and np.array_equal(results[4, "float32"], exact)
    assert np.array_equal(results[4, "int8"], round_activations(x, 32) @ w.T.astype(np.float64))
    assert not np.array_equal(results[4, "int8"], exact)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "a run needs a list of one or more token ids"),
        ([1.5], "a run needs a list of one or more token ids"),
        ([[1]], "a run needs a list of one or more token ids"),
        ([3, -1], "token id -1 is outside the vocabulary, 0 to 63 allowed"),
        ([64], "token id 64 is outside the vocabulary, 0 to 63 allowed"),
        ([1] * 129, "129 tokens do not fit into the model's context of 128"),
    ],
)
def test_batches_that_cannot_be_run_are_refused(tokens: list[Any], message: str) -> None:
    model = small()
    sequence = model.open_sequence()
    with pytest.raises(UsageError) as caught:
        model.forward([Run(sequence, np.array(tokens))])
    assert str(caught.value) == message and model.length(sequence) == 0


def test_closed_and_repeated_sequences_are_refused() -> None:
    model = small()
    sequence = model.open_sequence()
    with pytest.raises(UsageError, match="occurs twice in one batch"):
        model.forward([run(sequence, [1]), run(sequence, [2])])
    model.close_sequence(sequence)
    for use in (model.close_sequence, model.length, lambda s: model.forward([run(s, [1])])):
        with pytest.raises(UsageError, match="is not open"):
            use(sequence)


def test_unknown_number_types_are_refused() -> None:
    with pytest.raises(UsageError, match="activations are int8 or float32, not 'int4'"):
        small(activations="int4")
    with pytest.raises(UsageError, match="the cache is f16 or f32, not 'int8'"):
        small(cache="int8")
