"""Every family against transformers: what it computes, what it reads of config.json, what its tensors are called.

The logits of tests/golden/families.npz are transformers' in float64, except that it takes norms and angles of rotations
in float32 there too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.convert.convert import convert
from ggq.errors import GGQError, ModelError, UnsupportedError
from ggq.format import open_reader
from ggq.format.scheme import Scheme
from ggq.generate.loading import load
from ggq.models.build import build_program, role_shapes
from ggq.models.config import COMMON, ROPE, Anything, Config, Only, OrNull, Required
from ggq.models.config_rope import read_rope
from ggq.models.decoder import with_layers, with_mixers
from ggq.models.family import Family
from ggq.models.metadata import from_metadata, to_metadata
from ggq.models.names import Plus, Tensor
from ggq.models.parts import ModelSpec, Norm
from ggq.models.registry import FAMILIES, find_architecture
from ggq.models.rope import frequencies
from ggq.quant.stored import StoredWeight
from ggq.tape.program import Run
from ggq.tape.reference import NumpyExecutor
from tests.kit.checkpoints import TEXT, tiny, write_safetensors
from tests.kit.small_families import FAMILIES as CONFIGS
from tests.kit.small_families import LAST, family_checkpoint
from tests.kit.small_models import CONFIGS as LLAMAS
from tests.kit.small_models import made, write_ggq
from tests.kit.support import ROOT

GOLDEN = Path(__file__).parents[1] / "golden"
FACTS: dict[str, Any] = json.loads((GOLDEN / "families.json").read_text())
LOGITS = np.load(GOLDEN / "families.npz")
F32 = Scheme("float", 32, "f32")

TOLERANCE = 1e-5
"""Of the largest logit: what transformers' float32 norms and angles move. The same model without one of its differences
from Llama is off by a hundred times as much and more."""


VOCABULARY = 61


def tensors_of(name: str) -> Iterable[tuple[str, list[int]]]:
    """The tensors of a checkpoint by name, with their shapes."""
    return FACTS["models"][name]["tensors"].items()


def checkpoint(name: str) -> dict[str, np.ndarray]:
    return family_checkpoint(name, FACTS["models"][name]["tensors"])


def spec_of(name: str) -> tuple[Family, ModelSpec]:
    family = find_architecture(CONFIGS[name])
    return family, family.config(CONFIGS[name])


def expected(name: str) -> list[np.ndarray]:
    return [LOGITS[f"{name}.{number}"] for number in range(len(LAST))]


def forward(executor: Any, runs: list[tuple[int, list[int], str]]) -> np.ndarray:
    wanted = [Run(sequence, np.array(tokens, np.int32), logits) for sequence, tokens, logits in runs]
    return np.asarray(executor.forward(wanted))


def last_logits(executor: Any, name: str) -> list[np.ndarray]:
    """The last logits of all prompts of a model, together in one batch."""
    prompts = FACTS["models"][name]["prompts"]
    found = forward(executor, [(executor.open_sequence(), tokens, "all") for tokens in prompts])
    ends = np.cumsum([len(tokens) for tokens in prompts])
    return [found[end - last : end] for end, last in zip(ends, LAST, strict=True)]


def error(found: list[np.ndarray], name: str) -> float:
    """The largest difference from transformers' logits, relative to the largest of these."""
    pairs = zip(found, expected(name), strict=True)
    return max(float(np.abs(got - want).max() / np.abs(want).max()) for got, want in pairs)


def reference(spec: ModelSpec, name: str, expression: Callable[[str], Any] | None = None) -> NumpyExecutor:
    """The slow executor of a model with the tensors of a checkpoint, in float64 with a float32 cache."""
    family, tensors = find_architecture(CONFIGS[name]), checkpoint(name)
    if expression is not None:
        family = replace(family, expression=expression)
    specs = {each.role: each for each in family.tensors(spec) if each.role}

    def weights(role: str) -> StoredWeight:
        return StoredWeight(F32, made(specs[role], tensors))

    return NumpyExecutor(build_program(spec), weights, "float32", "f32")


@contextmanager
def opened(path: Path, interpreter: str, **options: str) -> Iterator[Any]:
    model = load(path, interpreter=interpreter, **options)
    try:
        yield model.executor
    finally:
        model.close()


INTERPRETERS = ["numpy", pytest.param("numba", marks=pytest.mark.kernels)]


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


def write_checkpoint(folder: Path, name: str, vocabulary: int = VOCABULARY) -> Path:
    """A checkpoint as transformers saves it, without a tokenizer."""
    shapes = {key: [vocabulary if rows == VOCABULARY else rows, *columns] for key, (rows, *columns) in tensors_of(name)}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIGS[name], "vocab_size": vocabulary}))
    header: dict[str, Any] = {}
    data = b""
    for tensor, values in family_checkpoint(name, shapes).items():
        end = len(data) + values.nbytes
        header[tensor] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.tobytes()
    write_safetensors(folder / "model.safetensors", header, data)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_a_converted_checkpoint_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    """Its weights in float32, its norms as the model multiplies with them."""
    report = convert(write_checkpoint(tmp_path / "m", name), tmp_path / "m.ggq", scheme="f32")
    assert not report.ignored and not report.unread_keys
    with opened(tmp_path / "m.ggq", "numpy") as executor:
        assert error(last_logits(executor, name), name) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_transforms_that_are_folded_keep_the_model(name: str, tmp_path: Path) -> None:
    """Scales and orders of columns go into norms, values and feed-forwards, also those between norms: in 8 bits they
    leave about the error of 8 bits without. Calibration runs the model layer by layer on windows of a text."""
    tiny(tmp_path / "m")  # for its tokenizer
    folder, tokens = write_checkpoint(tmp_path / "m", name, 320), list(range(5, 60))
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


def norm_of(spec: ModelSpec) -> Norm:
    assert spec.head.norm is not None
    return spec.head.norm


def without(field: str, value: Any) -> Callable[[ModelSpec], ModelSpec]:
    """Another value of a field of every layer's mixer."""
    return lambda spec: with_mixers(spec, **{field: value})


def other_feed_forward(spec: ModelSpec) -> ModelSpec:
    return with_layers(spec, feed_forward=replace(spec.layers[0].feed_forward, activation="silu"))


def every_layer_slides(spec: ModelSpec) -> ModelSpec:
    return with_mixers(spec, window=max(layer.mixer.window for layer in spec.layers))


def windows_in_other_layers(spec: ModelSpec) -> ModelSpec:
    windows = [layer.mixer.window for layer in spec.layers]
    shifted = zip(spec.layers, [*windows[1:], windows[0]], strict=True)
    return replace(spec, layers=tuple(replace(layer, mixer=replace(layer.mixer, window=w)) for layer, w in shifted))


def window_plus(more: int) -> Callable[[ModelSpec], ModelSpec]:
    """Windows, where there are some, of one position more or less."""

    def changed(spec: ModelSpec) -> ModelSpec:
        sizes = ((layer, layer.mixer.window) for layer in spec.layers)
        layers = (replace(each, mixer=replace(each.mixer, window=size and size + more)) for each, size in sizes)
        return replace(spec, layers=tuple(layers))

    return changed


def no_scaling(spec: ModelSpec) -> ModelSpec:
    rope = spec.layers[0].mixer.rope
    assert rope is not None and rope.scaling is not None
    return with_mixers(spec, rope=replace(rope, scaling=None))


def no_attention_factor(spec: ModelSpec) -> ModelSpec:
    rope: Any = spec.layers[0].mixer.rope
    return with_mixers(spec, rope=replace(rope, scaling=replace(rope.scaling, attention_factor=1.0)))


def head(**changes: Any) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(spec, head=replace(spec.head, **changes))


def rms_norms(spec: ModelSpec) -> ModelSpec:
    norm = replace(norm_of(spec), kind="rms")
    return replace(with_layers(spec, mixer_norm=norm), head=replace(spec.head, norm=norm))


def one_after_the_other(spec: ModelSpec) -> ModelSpec:
    """Layers that are not parallel, whose feed-forward takes the row as it is."""
    return with_layers(spec, parallel=False)


CHANGES: dict[str, dict[str, Callable[[ModelSpec], ModelSpec]]] = {
    "qwen2": {
        "no bias of queries": without("query_bias", False),
        "no bias of keys": without("key_bias", False),
        "no bias of values": without("value_bias", False),
        "another base": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, theta=1e4)),  # type: ignore[type-var]
    },
    "qwen2_windows": {
        "no windows": without("window", 0),
        "windows everywhere": every_layer_slides,
        "no YaRN": no_scaling,
        "no attention factor": no_attention_factor,
    },
    "mistral": {
        "no windows": without("window", 0),
        "a larger window": window_plus(1),
        "a smaller window": window_plus(-1),
        "no linear scaling": no_scaling,
    },
    "qwen3": {
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no biases": lambda spec: with_mixers(
            spec, query_bias=False, key_bias=False, value_bias=False, output_bias=False
        ),
        "no bias of the output": without("output_bias", False),
        "windows in other layers": windows_in_other_layers,
    },
    "gemma2": {
        "no windows": without("window", 0),
        "windows everywhere": every_layer_slides,
        "windows in other layers": windows_in_other_layers,
        "a larger window": window_plus(1),
        "no cap of scores": without("softcap", 0.0),
        "no cap of logits": head(softcap=0.0),
        "the usual scale of scores": without("scale", 14**-0.5),
        "SiLU": other_feed_forward,
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
        "no norm before the feed-forward": lambda spec: with_layers(spec, feed_forward_norm=None),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "another epsilon": lambda spec: replace(
            spec, head=replace(spec.head, norm=replace(norm_of(spec), epsilon=0.1))
        ),
    },
    "olmo2": {
        "no norm of queries": without("query_norm", None),
        "no norm of keys": without("key_norm", None),
        "no norm behind attention": lambda spec: with_layers(spec, mixer_post_norm=None),
        "no norm behind the feed-forward": lambda spec: with_layers(spec, feed_forward_post_norm=None),
    },
    "granite": {
        "the usual scale of scores": without("scale", 10**-0.5),
        "no scale of what is added": lambda spec: with_layers(spec, residual_scale=1.0),
        "no scale of the embedding": lambda spec: replace(spec, embedding=replace(spec.embedding, scale=1.0)),
        "no scale of logits": head(scale=1.0),
    },
    "cohere": {
        "RMS norms": rms_norms,
        "RoPE of halves": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, layout="half")),  # type: ignore[type-var]
        "one after the other": one_after_the_other,
        "no scale of logits": head(scale=1.0),
        "another base": lambda spec: with_mixers(spec, rope=replace(spec.layers[0].mixer.rope, theta=1e4)),  # type: ignore[type-var]
    },
    "smollm3": {
        "RoPE everywhere": lambda spec: with_mixers(spec, rope=spec.layers[0].mixer.rope),
        "RoPE nowhere": without("rope", None),
        "no windows": without("window", 0),
        "windows everywhere": every_layer_slides,
    },
}
"""For each model its differences from Llama, each taken away."""


def test_every_model_has_changes() -> None:
    assert set(CHANGES) == set(CONFIGS)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in CHANGES for change in CHANGES[name]])
def test_a_model_without_one_of_its_differences_is_noticed(name: str, change: str) -> None:
    spec = spec_of(name)[1]
    changed = CHANGES[name][change](spec)
    assert changed != spec
    assert error(last_logits(reference(changed, name), name), name) > 100 * TOLERANCE


def test_norms_that_are_stored_less_one_are_noticed_without_it() -> None:
    family, spec = spec_of("gemma2")

    def plain(role: str) -> Any:
        expression = family.expression(role)
        return expression.expression if isinstance(expression, Plus) else expression

    assert error(last_logits(reference(spec, "gemma2", plain), "gemma2"), "gemma2") > 100 * TOLERANCE


@pytest.mark.parametrize("interpreter", INTERPRETERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_int8_activations_differ_as_much_as_their_rounding(name: str, interpreter: str, tmp_path: Path) -> None:
    """Inputs are rounded to int8 before every product, with at most half a step, 1 / 254 of the largest of a group.

    For a group of 32 numbers of one spread the root mean square of that, to the numbers' own, is 1 / 254 * sqrt(4 / 3)
    times about 2.2 (the largest of 32 over the root mean square), 0.6 %. The errors of the products behind each other,
    4 a layer and one at the end, are independent: sqrt(4 * layers + 1) times as much, and twice that is allowed for
    what norms, soft caps and attention make of it. That the weights are quantized is in both results.
    """
    path = write_ggq(tmp_path / "m.ggq", CONFIGS[name], checkpoint(name), "q8-g32")
    with opened(path, "numpy", cache="f32", activations="float32") as executor:
        exact = last_logits(executor, name)
    with opened(path, interpreter, cache="f32", activations="int8") as executor:
        rounded = last_logits(executor, name)
    bound = 2 * 0.006 * np.sqrt(4 * len(spec_of(name)[1].layers) + 1)
    for got, want in zip(rounded, exact, strict=True):
        assert 0 < np.linalg.norm(got - want) / np.linalg.norm(want) < bound


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tensors_are_those_of_transformers(name: str) -> None:
    family, spec = spec_of(name)
    stored = [each for each in family.tensors(spec) if each.role]
    assert {name for each in stored for name in each.expression.names()} == set(FACTS["models"][name]["tensors"])
    assert [each.role for each in stored] == list(role_shapes(spec))
    assert len({each.name for each in stored}) == len(stored)


@pytest.mark.parametrize("name", CONFIGS)
def test_metadata_gives_the_model_back(name: str) -> None:
    family, spec = spec_of(name)
    metadata = to_metadata(spec, family.names[0])
    assert from_metadata(metadata) == spec
    kept = {layer.split(".")[2] for layer in metadata if layer.startswith("model.layer.")}
    assert len(kept) == len(set(spec.layers))  # layers that are equal are kept once


def value_of(known: object) -> object:
    """The default that a family has for a key."""
    return known.default if isinstance(known, OrNull) else known.value if isinstance(known, Only) else known


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.names[0])
def test_a_family_knows_every_key_that_its_class_in_transformers_reads(family: Family) -> None:
    """And has the same defaults; those that only the model's code looks for are named here."""
    (model_type,) = family.model_types
    read = FACTS["keys"][model_type]
    known = {**COMMON, **ROPE, **family.keys}
    assert set(read["common"]) | set(read["own"]) <= set(known)
    assert set(family.keys) - set(read["own"]) <= {"head_dim", "rope_theta"}
    assert known["rope_theta"] == read["rope_theta"]
    for key, default in read["own"].items():
        if not isinstance(known[key], Required | Anything) and not (isinstance(known[key], Only) and default is None):
            assert value_of(known[key]) == default, key


def changed(model: str, **changes: Any) -> tuple[ModelSpec, tuple[str, ...]]:
    hf = {**CONFIGS[model], **changes}
    spec, unread = find_architecture(hf).read(hf, "config.json")
    return spec, tuple(unread)


@pytest.mark.parametrize(
    ("model", "changes", "kind", "message"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, UnsupportedError, "true is not supported; supported: false"),
        ("gemma2", {"hidden_activation": "mish"}, UnsupportedError, "hidden_activation: 'mish' is not supported"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, ModelError, "attn_logit_softcapping: 0.0 found, a number above 0"),
        ("gemma2", {"sliding_window": 0}, ModelError, "sliding_window: 0 found, 1 to"),
        ("gemma2", {"sliding_window": None}, ModelError, "layer_types: sliding_attention found, and no window in use"),
        (
            "gemma2",
            {"layer_types": ["full_attention"] * 3},
            ModelError,
            "layer_types: a list of 3 found, a list of 4 kinds",
        ),
        (
            "gemma2",
            {"layer_types": "full_attention"},
            ModelError,
            "layer_types: 'full_attention' found, a list of 4 kinds",
        ),
        ("qwen3", {"layer_types": ["full_attention", "x", "x"]}, UnsupportedError, "layer_types: 'x' is not supported"),
        (
            "qwen2",
            {"layer_types": ["sliding_attention"] * 3},
            ModelError,
            "sliding_attention found, and no window in use",
        ),
        (
            "smollm3",
            {"no_rope_layers": [1, 1]},
            ModelError,
            "no_rope_layers: a list of 2 found, a list of 3 times",
        ),
        (
            "smollm3",
            {"no_rope_layers": [1, 2, 1]},
            ModelError,
            "no_rope_layers: a list of 3 found, a list of 3 times",
        ),
        ("cohere", {"use_qk_norm": True}, UnsupportedError, "use_qk_norm: true is not supported; supported: false"),
        (
            "gemma2",
            {"query_pre_attn_scalar": 1e-300},
            ModelError,
            r"layers\.mixer\.scale: 1e\+150 found, a number above 0",
        ),
        ("gemma2", {"layer_types": []}, ModelError, "layer_types: a list of 0 found, a list of 4 kinds"),
        (
            "qwen2_windows",
            {"rope_parameters": {"rope_type": "yarn"}, "max_position_embeddings": 1 << 27},
            ModelError,
            "scaling.factor: 4194304.0 found",
        ),
        (
            "qwen2_windows",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1}},
            ModelError,
            "YaRN needs a base above 1, not 1",
        ),
        (
            "qwen2_windows",
            {"rope_parameters": {"rope_type": "yarn", "beta_slow": 40}},
            ModelError,
            r"YaRN needs its slow beta \(40\) below the fast one \(32\)",
        ),
        ("granite", {"logits_scaling": 0}, ModelError, "logits_scaling: 0 found, a number above"),
        ("mistral", {"sliding_window": "all"}, ModelError, "sliding_window: 'all' found, an integer expected"),
    ],
)
def test_what_a_family_cannot_have_is_refused(model: str, changes: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        changed(model, **changes)
    assert str(caught.value).startswith("config.json: ")


ROPE_KEYS = ["rope_type", "type", "rope_theta", "factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1, 2, 3, 0.5, 64, "yarn", "linear"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ROPE_KEYS), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=60)
@pytest.mark.parametrize("name", CONFIGS)
@given(data=st.data())
def test_any_json_is_refused_in_the_family_or_accepted_whole(name: str, data: st.DataObject) -> None:
    """Each key that the family reads may hold anything; what is accepted makes a program and goes into a file."""
    family = find_architecture(CONFIGS[name])
    keys = sorted({*family.keys, *ROPE, "is_causal", "per_layer_config", "unknown"})
    changes = data.draw(st.dictionaries(st.sampled_from(keys), JSON, min_size=1, max_size=3))
    try:
        spec = family.config({**CONFIGS[name], **changes})
    except GGQError as problem:
        assert len(str(problem)) < 300
        return
    assert from_metadata(to_metadata(spec, family.names[0])) == spec
    assert {role for op in build_program(spec).ops for role in op.weights_read()} == set(role_shapes(spec))


def windows(spec: ModelSpec) -> list[int]:
    return [layer.mixer.window for layer in spec.layers]


def test_windows_are_those_of_transformers() -> None:
    assert windows(changed("mistral", sliding_window=None)[0]) == [0, 0, 0]
    left_out = {key: value for key, value in CONFIGS["mistral"].items() if key != "sliding_window"}
    assert windows(find_architecture(left_out).config(left_out)) == [4096] * 3
    assert windows(changed("gemma2")[0]) == [19, 0, 19, 0]
    assert windows(changed("gemma2", sliding_window=None, layer_types=["full_attention"] * 4)[0]) == [0] * 4
    assert windows(changed("qwen2_windows")[0]) == [0, 13, 13]
    assert windows(changed("qwen2_windows", use_sliding_window=False)[0]) == [0, 0, 0]
    assert windows(changed("qwen2_windows", sliding_window=None)[0]) == [0, 0, 0]
    assert windows(changed("qwen2", sliding_window=0)[0]) == [0, 0, 0]  # not in use
    assert windows(changed("qwen3")[0]) == [29, 0, 29]


def test_null_is_a_value_where_transformers_takes_it_for_one() -> None:
    capless, _ = changed("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert capless.head.softcap == 0.0 and {layer.mixer.softcap for layer in capless.layers} == {0.0}
    left_out = {key: value for key, value in CONFIGS["gemma2"].items() if "softcapping" not in key}
    usual = find_architecture(left_out).config(left_out)
    assert usual.head.softcap == 30.0 and {layer.mixer.softcap for layer in usual.layers} == {50.0}
    assert {layer.mixer.kv_heads for layer in changed("qwen2", num_key_value_heads=None)[0].layers} == {5}


def test_leftovers_are_reported() -> None:
    spec, unread = changed("gemma2", hidden_act="gelu", cache_implementation="hybrid")
    assert (spec, unread) == (changed("gemma2")[0], ("hidden_act", "cache_implementation"))
    assert changed("qwen2", attention_bias=True)[1] == ("attention_bias",)
    assert changed("mistral", max_window_layers=2)[1] == ("max_window_layers",)
    assert changed("qwen3", attention_dropout=0.5, use_cache=False)[1] == ()


@pytest.mark.parametrize("case", FACTS["rope"], ids=lambda case: "-".join(map(str, case["form"].values())))
def test_frequencies_are_those_of_transformers(case: dict[str, Any]) -> None:
    """Which takes them in float32: seven digits."""
    keys = {**ROPE, **find_architecture(LLAMAS["grouped"]).keys}
    rope = read_rope(Config({"rope_parameters": case["form"]}, keys), 32, 8192)
    assert np.allclose(frequencies(rope), case["frequencies"], rtol=2e-6, atol=0)
    assert np.isclose(rope.rotation().scale, case["attention_factor"], rtol=1e-12, atol=0)


def test_an_expression_reads_the_whole_tensor() -> None:
    """A norm of Gemma's keeps its name in the file, and its weights are what the model multiplies with."""
    family, spec = spec_of("gemma2")
    (norm,) = [each for each in family.tensors(spec) if each.role == "norm.weight"]
    assert norm.expression == Plus(Tensor("model.norm.weight"), 1.0) and norm.name == "model.norm.weight"
    assert np.array_equal(made(norm, {"model.norm.weight": np.full(40, 0.5, np.float32)}), np.full(40, 1.5, np.float32))


def test_a_family_is_a_short_file_that_says_how_it_differs_from_llama() -> None:
    files = sorted((ROOT / "ggq" / "models" / "families").glob("[!_]*.py"))
    assert len(files) == len(FAMILIES)
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 60 and lines[0].startswith('"""') and "Llama" in lines[0], file.name
