"""The NumPy interpreter against transformers, and its rounding against what the contract of the kernels says."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import FormatError, ModelError, UsageError
from ggq.format import Writer, open_reader
from ggq.format.scheme import ROW, Scheme
from ggq.models.build import build_program
from ggq.models.registry import find_architecture
from ggq.quant import encode_tensor, parse_scheme
from ggq.quant.stored import StoredWeight, activation_group, decoded, read_stored
from ggq.tape.executor import pieces, wanted_rows
from ggq.tape.ops import Linear
from ggq.tape.program import Buffer, Inputs, Program, Run
from ggq.tape.reference import Batch, Kept, NumpyExecutor, round_activations
from tests.kit.small_models import CONFIGS, checkpoint, prompt, read_checkpoint, write_ggq
from tests.kit.support import DEMO, ROOT, shared

GOLDEN = Path(__file__).parents[1] / "golden"
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

    return NumpyExecutor(build_program(config), weights, **options)


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
    monkeypatch.setattr("ggq.tape.reference.ROWS", 16)
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
    assert wanted_rows(runs) == [2, 5, 6]
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


GROUPS = ((32, 32), (64, 64), (128, 128), (256, 128), (96, 32), (160, 32), (16, 16), (48, 16), (ROW, 32))


@pytest.mark.parametrize(("group", "shared_columns"), GROUPS)
def test_the_activation_group_follows_the_weights(group: int, shared_columns: int) -> None:
    assert activation_group(Scheme("uniform", 4, group=group, scale="f16", zero="none")) == shared_columns


def test_int8_activations_touch_quantized_matrices_alone() -> None:
    x, w = np.linspace(-1, 1, 32)[None], np.linspace(0.5, 2, 16 * 32, dtype=np.float32).reshape(16, 32)
    results = {}
    for scheme, activations in ((F32, "int8"), (Q4, "int8"), (Q4, "float32")):
        results[scheme.bits, activations] = product(StoredWeight(scheme, w), x, activations)
    exact = x @ w.T.astype(np.float64)
    assert np.array_equal(results[32, "int8"], exact) and np.array_equal(results[4, "float32"], exact)
    assert np.array_equal(results[4, "int8"], round_activations(x, 32) @ w.T.astype(np.float64))
    assert not np.array_equal(results[4, "int8"], exact)


def product(weight: StoredWeight, x: np.ndarray, activations: str) -> np.ndarray:
    """What a model of one matrix makes of its source."""
    source, out = Buffer("hidden", x.shape[1]), Buffer("logits", len(weight.numbers), "wanted")
    batch = Batch(
        [run(0, [0] * len(x))], {0: Kept(Program((), Inputs(1, 1), {}), np.float16)}, lambda _: weight, activations
    )
    batch[source] = x
    Linear(source, ("w",), (None,), (out,)).oracle(batch)
    return batch[out]


@pytest.mark.parametrize("parts", [("scale",), ("order",), ("scale", "order")])
def test_inputs_are_transformed_and_then_rounded(parts: tuple[str, ...]) -> None:
    rng = np.random.default_rng(3)
    x, numbers = rng.standard_normal((4, 40)).astype(np.float32), rng.standard_normal((16, 40)).astype(np.float32)
    scale = rng.choice(np.float32([0.25, 0.5, 2, 8]), 40) if "scale" in parts else None
    order = rng.permutation(40).astype(np.uint32) if "order" in parts else None
    weight = StoredWeight(Q4, numbers, scale, order)
    effective = np.zeros((16, 40))
    moved = np.zeros((4, 40), np.float32)
    for j in range(40):
        column, factor = (j if order is None else order[j]), (1 if scale is None else scale[j])
        effective[:, column] = numbers[:, j] * factor
        moved[:, j] = x[:, column] * factor
    assert np.array_equal(weight.effective(), effective)
    assert np.allclose(product(weight, x, "float32"), x.astype(np.float64) @ effective.T, rtol=1e-12)
    assert np.array_equal(product(weight, x, "int8"), round_activations(moved, 32) @ numbers.astype(np.float64).T)


def test_inputs_are_rounded_per_token_or_by_a_given_step() -> None:
    x = np.float32([[1, 2, -254, 3.5], [0.5, -1.5, 0.25, 63.5]])
    eye = np.eye(4, dtype=np.float32)
    by_token = product(StoredWeight(Q4, eye, activations="token"), x, "int8")
    assert by_token.tolist() == [[0, 2, -254, 4], [0.5, -1.5, 0, 63.5]]  # steps of 2 and of 0.5; ties go to even
    static = product(StoredWeight(Q4, eye, activations="static", activation_step=0.5), x, "int8")
    assert static.tolist() == [[1, 2, -63.5, 3.5], [0.5, -1.5, 0, 63.5]]  # what is too large is cut off
    assert np.array_equal(product(StoredWeight(Q4, eye, activations="static", activation_step=9.0), x, "float32"), x)
    assert np.array_equal(product(StoredWeight(F32, eye, activations="token"), x, "int8"), x)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"activations": "tensor"}, "activations are 'tensor'; allowed are token and static (M-11)"),
        ({"activations": "group"}, "activations are 'group'; allowed are token and static (M-11)"),
        ({"activations": 1.0}, "activations are 1.0; allowed are"),
        ({"activations": "static"}, "an activation step of 0.0; allowed are positive numbers (M-11)"),
        ({"activations": "static", "activation_step": inf}, "an activation step of inf"),
        ({"activations": "static", "activation_step": -1.0}, "an activation step of -1.0"),
        ({"activations": "static", "activation_step": 1}, "an activation step of 1"),
    ],
)
def test_activations_that_no_one_knows_are_refused(tmp_path: Path, attributes: dict[str, Any], message: str) -> None:
    path, scheme = tmp_path / "a.ggq", parse_scheme("q8-g32")
    with Writer(path) as writer:
        writer.add_tensor("w", (16, 32), scheme, encode_tensor(np.ones((16, 32), np.float32), scheme), attributes)
        writer.finish()
    with open_reader(path) as reader, pytest.raises(ModelError) as refused:
        read_stored(reader, reader.tensors["w"])
    assert message in str(refused.value) and "tensor w" in str(refused.value)


def test_a_column_order_out_of_bounds_is_refused() -> None:
    with open_reader(ROOT / "spec" / "vectors" / "bad" / "order-outside.ggq") as reader:
        for read in (read_stored, decoded):
            with pytest.raises(FormatError, match="input order 5 is column 32; allowed are 0 to 31"):
                read(reader, reader.tensors["a.weight"])


SCHEMES_OF_EACH_PART = ["q3m-g32-s6", "ternary-g32", "binary-g32-s4", "c4-g32", "q4-g32-s6+scale+order", "c3-row+order"]


@pytest.mark.parametrize("name", SCHEMES_OF_EACH_PART)
def test_a_file_of_new_schemes_computes_what_its_weights_say(name: str, tmp_path: Path) -> None:
    """The embedding is among them: it is looked up with its transform undone, and multiplied with its inputs
    transformed."""
    config, tensors = CONFIGS["grouped"], checkpoint(CONFIGS["grouped"])
    path = write_ggq(tmp_path / "m.ggq", config, tensors, name)
    with ggq.open(path) as file:
        effective = {key: file.tensors[key].dequantize() for key in file.tensors}
        x = np.random.default_rng(1).standard_normal(tensors["model.embed_tokens.weight"].shape[1])
        for tensor in file.tensors.values():
            if len(tensor.shape) == 2 and tensor.shape[1] == len(x):
                assert np.allclose(tensor.matmul(x), effective[tensor.name] @ x, atol=1e-5)
    tokens = prompt(config, 12)
    expected = forward(executor(config, effective, cache="f32"), tokens)
    with ggq.load(path, interpreter="numpy", activations="float32", cache="f32") as model:
        found = model.logits(tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


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
    with pytest.raises(UsageError, match="activations must be int8 or float32, not 'int4'"):
        small(activations="int4")
    with pytest.raises(UsageError, match="the cache must be f16 or f32, not 'int8'"):
        small(cache="int8")
