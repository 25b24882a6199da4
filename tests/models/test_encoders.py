"""Encoders against transformers' rows, scores and means: whole, in batches, converted, rounded, and without each of
their differences."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, ModelError, UnsupportedError, UsageError
from ggq.format.scheme import Scheme
from ggq.generate.loading import load
from ggq.generate.vectors import Tokens
from ggq.models.build import build_program, role_shapes
from ggq.models.decoder import with_layers
from ggq.models.metadata import from_metadata, to_metadata
from ggq.models.registry import find_architecture
from ggq.models.text.parts import TextSpec
from ggq.quant.stored import StoredWeight
from ggq.tape.program import Run
from ggq.tape.reference import NumpyExecutor
from tests.kit.checkpoints import write_safetensors
from tests.kit.small_encoders import ENCODERS, encoder_checkpoint, types_of
from tests.kit.small_models import made, write_ggq

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS: dict[str, Any] = json.loads((GOLDEN / "encoders.json").read_text())
FOUND = np.load(GOLDEN / "encoders.npz")
F32 = Scheme("float", 32, "f32")
TOLERANCE = 1e-5
"""Of the largest number: what float32 moves, which transformers' goldens have in norms and angles."""

INTERPRETERS = ["numpy", pytest.param("numba", marks=pytest.mark.kernels)]
TEXTS = range(3)


INSIDE = {"bert": "bert.", "roberta": "roberta.", "modernbert": "model.", "gemma3": "model."}
"""What stands before the names of tensors where a class has more than the model; where it has not, they lack it."""


def checkpoint(name: str, *, plain: bool = False) -> dict[str, np.ndarray]:
    """The tensors by the names that the family has for them, or by those in the file of such a class."""
    tensors = encoder_checkpoint(FACTS["models"][name]["tensors"])
    before = "" if plain else INSIDE.get(name, "")
    return {before + tensor: values for tensor, values in tensors.items()}


def spec_of(name: str) -> TextSpec:
    spec = find_architecture(ENCODERS[name]).config(ENCODERS[name])
    assert isinstance(spec, TextSpec)
    return spec


def written(folder: Path, name: str, scheme: str = "f32") -> Path:
    return write_ggq(folder / f"{scheme}.ggq", ENCODERS[name], checkpoint(name), scheme)


def tokens_of(name: str) -> list[Tokens]:
    texts = FACTS["models"][name]["texts"]
    return [Tokens(np.array(text, np.int32), types_of(name, len(text)), False) for text in texts]


def rows(executor: Any, texts: list[Tokens]) -> list[np.ndarray]:
    """The rows of each text, computed in one batch."""
    runs = [Run(executor.open_sequence(), each.ids, "all", each.types) for each in texts]
    found = executor.forward(runs)
    for run in runs:
        executor.close_sequence(run.sequence)
    return np.split(found, np.cumsum([len(each.ids) for each in texts])[:-1])


def error(found: list[np.ndarray], name: str, what: str) -> float:
    """The largest difference from what transformers computes, relative to the largest number."""
    errors = []
    for number, got in enumerate(found):
        want = FOUND[f"{name}.{number}.{what}"]
        got = got[:: len(got) // 5] if what == "rows" else got
        errors.append(np.abs(got - want).max() / np.abs(want).max())
    return float(max(errors))


def reference(spec: TextSpec, name: str) -> NumpyExecutor:
    """The slow executor of a model with the tensors of a checkpoint, in float64."""
    family, tensors = find_architecture(ENCODERS[name]), checkpoint(name)
    specs = {each.role: each for each in family.tensors(spec_of(name)) if each.role}
    shapes = role_shapes(spec)

    def weights(role: str) -> StoredWeight:
        values = made(specs[role], tensors)
        assert values.shape == shapes[role]
        return StoredWeight(F32, values)

    return NumpyExecutor(build_program(spec), weights, "float32", "f32")


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("name", ENCODERS)
def test_rows_and_results_are_those_of_transformers(name: str, interpreter: str, tmp_path: Path) -> None:
    """A text over several pages and past every window beside shorter ones; then scores, or the mean of the rows."""
    with load(written(tmp_path, name), interpreter=interpreter) as model:
        assert error(rows(model.executor, tokens_of(name)), name, "rows") < TOLERANCE
        found = model.vectors.results(tokens_of(name))
        assert found.dtype == np.float32 and found.shape == (3, model.vectors.width)
        assert error(list(found), name, "result") < TOLERANCE


@pytest.mark.kernels
@pytest.mark.parametrize("activations", ["int8", "float32"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_text_gets_the_same_numbers_beside_any_others(name: str, activations: str, tmp_path: Path) -> None:
    """Bit for bit, also where batches are cut: nothing is filled up."""
    texts = tokens_of(name)
    with load(written(tmp_path, name, "q8-g32"), activations=activations) as model:
        alone = np.concatenate([model.vectors.results([each]) for each in texts])
        for order in ([0, 1, 2], [2, 2, 0, 1, 1, 0, 0, 0, 0, 2]):
            assert np.array_equal(model.vectors.results([texts[i] for i in order]), alone[order])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_converted_checkpoint_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", name)
    report = ggq.convert(folder, tmp_path / "m.ggq", scheme="f32")
    assert not report.ignored and not report.unread_keys
    with load(tmp_path / "m.ggq", interpreter="numpy") as model:
        assert error(rows(model.executor, tokens_of(name)), name, "rows") < TOLERANCE
        assert error(list(model.vectors.results(tokens_of(name))), name, "result") < TOLERANCE


def write_folder(folder: Path, name: str, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A checkpoint as transformers saves it, without a tokenizer."""
    folder.mkdir(exist_ok=True)
    return write_tensors(folder, tensors or checkpoint(name, plain=True), {**ENCODERS[name], **config})


def write_tensors(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    data = b""
    for tensor, values in tensors.items():
        place = [len(data), len(data) + values.nbytes]
        header[tensor] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": place}
        data += values.tobytes()
    write_safetensors(folder / "model.safetensors", header, data)
    return folder


@pytest.mark.parametrize("normalized", [False, True])
def test_matrices_behind_a_pooling_are_taken(normalized: bool, tmp_path: Path) -> None:
    """As EmbeddingGemma has them: two without biases and activations, of which each has a folder."""
    folder, random = write_folder(tmp_path / "m", "gemma3"), np.random.default_rng(8)
    sizes, tensors = ((40, 56), (56, 24)), list[np.ndarray]()
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Dense", "3_Dense")]
    modules += [("Normalize", "4_Normalize")] if normalized else []
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": place} for kind, place in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    for (_, place), (taken, given) in zip(modules[2:4], sizes, strict=True):
        values = (random.standard_normal((given, taken)) / np.sqrt(taken)).astype(np.float32)
        tensors.append(values)
        (folder / place).mkdir()
        said: dict[str, Any] = {"in_features": taken, "out_features": given, "bias": False}
        said["activation_function"] = "torch.nn.modules.linear.Identity"
        (folder / place / "config.json").write_text(json.dumps(said))
        header = {"linear.weight": {"dtype": "F32", "shape": [given, taken], "data_offsets": [0, values.nbytes]}}
        write_safetensors(folder / place / "model.safetensors", header, values.tobytes())
    ggq.convert(folder, tmp_path / "m.ggq", scheme="f32")
    with load(tmp_path / "m.ggq", interpreter="numpy") as model:
        found = model.vectors.results(tokens_of("gemma3"))
    for number, vector in enumerate(found):
        want = tensors[1] @ (tensors[0] @ FOUND[f"gemma3.{number}.result"])
        want = want / np.linalg.norm(want) if normalized else want
        np.testing.assert_allclose(vector, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize(("scheme", "step"), [("q8-g32", 1 / 127), ("q4-g32", 1 / 8)])
@pytest.mark.parametrize("name", ["bert", "xlm_roberta", "modernbert"])
def test_schemes_differ_as_much_as_their_rounding(
    name: str, scheme: str, step: float, interpreter: str, tmp_path: Path
) -> None:
    """A weight is off by at most half a step of its group, uniformly: by step / sqrt(12) of the group's largest, which
    is sqrt(3) root mean squares of weights that are spread evenly: step / 2 relative to the product. Inputs that are
    rounded to int8 add 0.6 % (test_families.py). Products behind each other, 4 a layer, add up as independent errors
    do; the tables of the embedding have the same scheme here and are one more. Twice that is allowed for norms.
    """
    with load(written(tmp_path, name), interpreter="numpy") as model:
        exact = rows(model.executor, tokens_of(name))
    with load(written(tmp_path, name, scheme), interpreter=interpreter, cache="f32") as model:
        rounded = rows(model.executor, tokens_of(name))
    products = 4 * len(spec_of(name).layers) + 1
    bound = 2 * np.sqrt(products * ((step / 2) ** 2 + 0.006**2))
    for got, want in zip(rounded, exact, strict=True):
        assert 0 < np.linalg.norm(got - want) / np.linalg.norm(want) < bound


@pytest.mark.parametrize("name", ENCODERS)
def test_tensors_and_metadata(name: str) -> None:
    """The tensors are those of transformers' class; metadata gives the model back."""
    family, spec = find_architecture(ENCODERS[name]), spec_of(name)
    specs = family.tensors(spec)
    assert {each for spec in specs for each in spec.expression.names()} == set(checkpoint(name))
    assert [each.role for each in specs if each.role] == list(role_shapes(spec))
    metadata = to_metadata(spec, family.names[0])
    assert metadata["model.kind"] == "text" and from_metadata(metadata) == spec


def embedding(**changes: Any) -> Callable[[TextSpec], TextSpec]:
    return lambda spec: replace(spec, embedding=replace(spec.embedding, **changes))


def mixers(change: Callable[[Any], Any]) -> Callable[[TextSpec], TextSpec]:
    return lambda spec: replace(spec, layers=tuple(replace(each, mixer=change(each.mixer)) for each in spec.layers))


def activation(name: str) -> Callable[[TextSpec], TextSpec]:
    return lambda spec: with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation=name))  # type: ignore[type-var, return-value]


def first_norm(spec: TextSpec) -> TextSpec:
    """The norm of the second layer's input for the first layer's, with that of the embedding taken from it."""
    return replace(spec, embedding=replace(spec.embedding, norm=None))


def other_ropes(spec: TextSpec) -> TextSpec:
    """The RoPE of the other kind of layer."""
    ropes = {each.attention.rope for each in spec.layers}
    layers = (
        replace(each, mixer=replace(each.attention, rope=(ropes - {each.attention.rope}).pop())) for each in spec.layers
    )
    return replace(spec, layers=tuple(layers))


BERT_CHANGES: dict[str, Callable[[TextSpec], TextSpec]] = {
    "causal": lambda spec: replace(spec, causal=True),
    "no positions": embedding(positions=0),
    "no types": embedding(types=0),
    "no norm of the embedding": embedding(norm=None),
    "norms of what is added": lambda spec: replace(spec, normed_sums=False),
    "SiLU": activation("silu"),
    "another epsilon": lambda spec: with_layers(
        spec, mixer_post_norm=replace(spec.layers[0].mixer_post_norm, epsilon=1.0)
    ),  # type: ignore[type-var, return-value]
    "no bias of queries": mixers(lambda mixer: replace(mixer, query_bias=False)),
    "no bias of values": mixers(lambda mixer: replace(mixer, value_bias=False)),
    "no bias of the output": mixers(lambda mixer: replace(mixer, output_bias=False)),
    "no bias of the feed-forward": lambda spec: with_layers(  # type: ignore[type-var, return-value]
        spec, feed_forward=replace(spec.layers[0].feed_forward, bias=False)
    ),
}

MODERN_CHANGES: dict[str, Callable[[TextSpec], TextSpec]] = {
    "causal": lambda spec: replace(spec, causal=True),
    "no windows": mixers(lambda mixer: replace(mixer, window=0)),
    "larger windows": mixers(lambda mixer: replace(mixer, window=mixer.window and mixer.window + 1)),
    "smaller windows": mixers(lambda mixer: replace(mixer, window=mixer.window and mixer.window - 1)),
    "the other RoPE": other_ropes,
    "no RoPE": mixers(lambda mixer: replace(mixer, rope=None)),
    "no norm of the embedding": first_norm,
    "no norm of the rows": lambda spec: replace(spec, head=replace(spec.head, norm=None)),
    "SiLU": activation("silu"),
}

CHANGES = [("bert", *item) for item in BERT_CHANGES.items()]
CHANGES += [("modernbert", *item) for item in MODERN_CHANGES.items()]
CHANGES += [("roberta", "no positions", embedding(positions=0))]
GEMMA_CHANGES = ("causal", "no windows", "larger windows", "smaller windows", "the other RoPE", "SiLU")
CHANGES += [("gemma3", what, MODERN_CHANGES[what]) for what in GEMMA_CHANGES]
CHANGES += [("gemma3", "no scale of the embedding", embedding(scale=1.0))]


@pytest.mark.parametrize(("name", "what", "change"), CHANGES, ids=[f"{name}, {what}" for name, what, _ in CHANGES])
def test_without_a_difference_the_golden_fails(name: str, what: str, change: Callable[[TextSpec], TextSpec]) -> None:
    assert error(rows(reference(spec_of(name), name), tokens_of(name)), name, "rows") < TOLERANCE
    spec = change(spec_of(name))
    texts = [each if spec.embedding.types else each._replace(types=None) for each in tokens_of(name)]
    assert error(rows(reference(spec, name), texts), name, "rows") > 100 * TOLERANCE


HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "the first row": ("bert", {"pool": "first"}),
    "the last row": ("bert", {"pool": "last"}),
    "length 1": ("bert", {"normalized": True}),
    "the mean": ("bert_scores", {"pool": "mean"}),
    "no matrix": ("bert_scores", {"dense": None}),
    "the first row of ModernBERT": ("modernbert_scores", {"pool": "first"}),
}


@pytest.mark.parametrize("what", HEADS)
def test_without_a_difference_of_the_head_the_golden_fails(what: str, tmp_path: Path) -> None:
    name, changes = HEADS[what]
    with load(written(tmp_path, name), interpreter="numpy") as model:
        model.vectors.head = replace(model.vectors.head, **changes)
        assert error(list(model.vectors.results(tokens_of(name))), name, "result") > 100 * TOLERANCE


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_what_is_no_whole_text_is_refused(interpreter: str, tmp_path: Path) -> None:
    with load(written(tmp_path, "bert"), interpreter=interpreter) as model:
        executor, ids = model.executor, np.array([5, 6, 7], np.int32)
        sequence = executor.open_sequence()
        executor.forward([Run(sequence, ids, "none")])
        cases = [
            (Run(sequence, ids), "the model reads a text in one piece: its sequence cannot be continued"),
            (
                Run(executor.open_sequence(), ids, types=np.array([0, 3, 0])),
                "a text of type 3 is none of the model's, 0 to 2",
            ),
            (Run(executor.open_sequence(), ids, types=np.array([0, -1, 0])), "a text of type -1 is none"),
            (Run(executor.open_sequence(), ids, types=np.array([0, 1])), "a run needs as many types as tokens"),
            (Run(executor.open_sequence(), np.full(151, 4)), "151 tokens do not fit into the model's context of 150"),
        ]
        for run, message in cases:
            with pytest.raises(UsageError, match=message):
                executor.forward([run])


@pytest.mark.kernels
def test_a_text_that_the_buffers_do_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggq.engine.numba_executor.batch_rows", lambda program, most, file_bytes: 30)
    with load(written(tmp_path, "bert")) as model:
        short, long = (Tokens(np.full(count, 4, np.int32), None, False) for count in (30, 31))
        assert model.vectors.results([short, short]).shape == (2, 40)
        with pytest.raises(UsageError, match="a text of 31 tokens is too long, 30 are computed together"):
            model.vectors.results([long])


@pytest.mark.parametrize(
    ("name", "changes", "kind", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, UnsupportedError, "supported: \"?'?absolute"),
        ("bert", {"is_decoder": True}, UnsupportedError, "is_decoder: true is not supported; supported: false"),
        (
            "bert",
            {"num_attention_heads": 7},
            ModelError,
            "num_attention_heads: 7 heads do not divide the hidden size 40",
        ),
        ("bert", {"hidden_act": "mish"}, UnsupportedError, "hidden_act: 'mish' is not supported"),
        ("xlm_roberta", {"pad_token_id": 0}, UnsupportedError, "pad_token_id: 0 is not supported; supported: 1"),
        ("modernbert", {"layer_types": ["full_attention"]}, ModelError, "a list of 1 found, a list of 4 kinds"),
        ("modernbert_scores", {"classifier_pooling": "max"}, UnsupportedError, "supported: cls, mean"),
    ],
)
def test_what_is_not_supported_is_refused(name: str, changes: Any, kind: type[GGQError], message: str) -> None:
    with pytest.raises(kind, match=message):
        hf = {**ENCODERS[name], **changes}
        find_architecture(hf).read(hf, "config.json")


def test_metadata_that_contradicts_itself_is_refused() -> None:
    metadata = to_metadata(spec_of("bert"), "BertModel")
    with pytest.raises(ModelError, match="150 positions have a row, and a text may have 151 tokens"):
        from_metadata({**metadata, "model.context_length": 151})
    with pytest.raises(UnsupportedError, match="supported: mean, first, last"):
        from_metadata({**metadata, "model.head.pool": "max"})
