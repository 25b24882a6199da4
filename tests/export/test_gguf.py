"""A file as a GGUF file: what is read back is the model, byte for byte where a type expresses a scheme."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import GGQError, UnsupportedError, UsageError
from ggq.export.gguf import export_gguf
from ggq.export.gguf_types import TYPE_NAMES
from ggq.format.gguf.reader import GGUFReader
from ggq.format.gguf.types import TYPES
from ggq.format.gguf.writer import GGUFTensor, encoded_value, write_gguf
from ggq.gguf.blocks import matrix
from ggq.gguf.packing import PACKERS, packed
from ggq.gguf.tokens.cuts import LLAMA3
from ggq.gguf.tokens.keys import vocabulary_keys
from ggq.gguf.tokens.vocabulary import Vocabulary
from tests.gguf.test_model import WIDE, keys_of, llama, logits, quantized
from tests.kit.family_models import CONFIGS as FAMILIES
from tests.kit.family_models import checkpoint as family_checkpoint
from tests.kit.gguf_files import write_gguf as write_input
from tests.kit.small_models import CONFIGS, checkpoint, prompt, write_ggq
from tests.kit.support import DEMO, run_ggq


@pytest.mark.parametrize("kind", PACKERS, ids=lambda kind: TYPES[kind].name)
def test_blocks_come_back_byte_for_byte(kind: int) -> None:
    block = TYPES[kind]
    raw = np.random.default_rng(kind).integers(0, 256, (20, 3, block.bytes), dtype=np.uint8)
    raw[0], raw[1] = 0, 255
    if kind == 40:  # signs, and what is no number, are lost
        raw[..., :4] %= 127
    if kind == 39:  # powers of two that f16 holds, and none where all numbers are 0
        raw[..., 0] = 104 + raw[..., 0] % 40
        raw[0] = 0
    found = matrix(kind, raw)
    assert found is not None
    assert packed(kind, found).tobytes() == raw.tobytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4", "Q2_0"])
def test_an_imported_file_is_exported_byte_for_byte(kind: str, tmp_path: Path) -> None:
    source = write_input(tmp_path / "m.gguf", keys_of(WIDE, "llama"), quantized(llama(WIDE), kind))
    ggq.convert(source, tmp_path / "m.ggq")
    done = export_gguf(tmp_path / "m.ggq", tmp_path / "again.gguf")
    assert done.encoded == 0 and done.exact == 15 and done.types == {kind.upper(): 15, "F32": 5}
    with GGUFReader(source) as before, GGUFReader(tmp_path / "again.gguf") as after:
        assert set(before.tensors) == set(after.tensors)
        for name in before.tensors:
            assert before.raw(name).tobytes() == after.raw(name).tobytes(), name
        for key in before.metadata:
            assert np.isclose(after.metadata[key], before.metadata[key]) if "llama." in key else True, key


def family_config(name: str) -> dict[str, Any]:
    config = dict(FAMILIES[name])
    if "use_sliding_window" in config:
        config["use_sliding_window"] = False
        config.pop("layer_types", None)
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = config["head_dim"]  # a GGUF file has no other
    return config


UNBIASED = {"qwen3": "attention_bias", "arcee": "mlp_bias", "ernie4_5": "use_bias"}
"""Biases that llama.cpp does not have."""


@pytest.mark.parametrize(
    "name", ["qwen2", "gemma2", "olmo2", "granite", "cohere", "stablelm", "stablelm_parallel", "hunyuan"]
)
def test_families_come_back(name: str, tmp_path: Path) -> None:
    config = family_config(name)
    ours = write_ggq(tmp_path / "m.ggq", config, family_checkpoint(name), "f32")
    export_gguf(ours, tmp_path / "m.gguf")
    tokens = prompt(config, 40)
    np.testing.assert_allclose(logits(tmp_path / "m.gguf", tokens), logits(ours, tokens), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", UNBIASED)
def test_biases_that_llama_cpp_does_not_have_are_refused(name: str, tmp_path: Path) -> None:
    assert family_config(name)[UNBIASED[name]]
    ours = write_ggq(tmp_path / "m.ggq", family_config(name), family_checkpoint(name), "f32")
    with pytest.raises(UnsupportedError, match="with biases is not written as a GGUF file: llama.cpp has none there"):
        export_gguf(ours, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["m.ggq"]


def test_a_mistral_is_a_llama(tmp_path: Path) -> None:
    config = {**family_config("mistral"), "sliding_window": None}
    ours = write_ggq(tmp_path / "m.ggq", config, family_checkpoint("mistral"), "f32")
    export_gguf(ours, tmp_path / "m.gguf")
    tokens = prompt(config, 40)
    np.testing.assert_allclose(logits(tmp_path / "m.gguf", tokens), logits(ours, tokens), atol=2e-5)


@pytest.mark.parametrize("name", ["grouped", "stretched"])
def test_llamas_come_back(name: str, tmp_path: Path) -> None:
    ours = write_ggq(tmp_path / "m.ggq", CONFIGS[name], checkpoint(CONFIGS[name]), "f32")
    export_gguf(ours, tmp_path / "m.gguf")
    tokens = prompt(CONFIGS[name], 80)
    np.testing.assert_allclose(logits(tmp_path / "m.gguf", tokens), logits(ours, tokens), atol=2e-5)


@pytest.mark.parametrize("kind", TYPE_NAMES)
def test_every_type_is_near(kind: str, tmp_path: Path) -> None:
    ours = write_ggq(tmp_path / "m.ggq", WIDE, checkpoint(WIDE), "f32")
    done = export_gguf(ours, tmp_path / "m.gguf", type=kind)
    tokens = prompt(WIDE, 30)
    found, expected = logits(tmp_path / "m.gguf", tokens), logits(ours, tokens)
    error = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    bits = next((int(c) for c in kind if c.isdigit()), 0)
    most = {"f32": 1e-6, "f16": 2e-3, "bf16": 2e-2, "q8_0": 0.03, "tq1_0": 1.5, "tq2_0": 1.5}
    assert error < most.get(kind, {2: 1.0, 3: 0.6, 4: 0.5}.get(bits, 0.15))
    assert done.types[kind.upper()] == 14 + (kind in ("f32", "f16", "bf16", "q8_0", "q6_k")) + 5 * (kind == "f32")
    assert done.worst < {2: 0.3, 3: 0.2, 1: 0.5, 4: 0.12}.get(bits, 0.06) if not kind.startswith("t") else 0.5


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    ggq.convert(DEMO, folder / "m.ggq", scheme="q8-g32")
    return folder / "m.ggq"


def test_the_tokenizer_comes_back(demo: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    done = run_ggq("export", demo, tmp_path / "m.gguf")
    assert done.returncode == 0, done.stderr
    assert "29 number for number as before, 0 encoded anew" in done.stdout
    original = Tokenizer.from_str((DEMO / "tokenizer.json").read_text())
    with GGUFReader(tmp_path / "m.gguf") as reader:
        vocabulary = Vocabulary(reader.metadata, "x")
    found = Tokenizer.from_str(vocabulary.document())
    for text in ("def f(a):\n    return 'é' * 3\n", "<|im_start|>x  y\t日本", ""):
        assert found.encode(text).ids == original.encode(text, add_special_tokens=False).ids
    with ggq.load(demo, interpreter="numpy") as ours, ggq.load(tmp_path / "m.gguf", interpreter="numpy") as theirs:
        np.testing.assert_array_equal(ours.logits([1, 2, 3]), theirs.logits([1, 2, 3]))
        assert theirs.stream([5, 6], max_tokens=3).answer.tokens == ours.stream([5, 6], max_tokens=3).answer.tokens


def test_sentencepiece_merges_become_scores(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "a", "b", "ab", "\u2581ab"]
    merges = [["a", "b"], ["\u2581", "ab"]]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": merges}
    added = [{"id": 0, "content": "<unk>", "special": True}, {"id": 1, "content": "<s>", "special": True}]
    document: dict[str, Any] = {
        "model": {**model, "vocab": {token: i for i, token in enumerate(tokens)}},
        "added_tokens": added,
        "normalizer": {"type": "Prepend", "prepend": "\u2581"},
        "pre_tokenizer": None,
    }
    keys = vocabulary_keys(json.dumps(document).encode(), 270, "m")
    again = json.loads(Vocabulary(keys, "m").document())
    assert again["model"]["merges"] == merges and keys["tokenizer.ggml.add_space_prefix"] is True
    assert keys["tokenizer.ggml.tokens"][263:] == [f"[PAD{i}]" for i in range(263, 270)]
    assert keys["tokenizer.ggml.token_type"][[0, 1, 2, 259, 269]].tolist() == [2, 3, 6, 1, 5]
    document["model"]["merges"] = merges[::-1][:1]
    with pytest.raises(UnsupportedError, match="merges that no scores of tokens stand for"):
        vocabulary_keys(json.dumps(document).encode(), 270, "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "tokenizers of the kind 'Unigram'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "this way to cut texts into words"),
        ({"normalizer": {"type": "Lowercase"}}, "this way to cut texts into words"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "a space before each text"),
        ({"added_tokens": [{"id": 9000, "content": "<x>"}]}, "a token of id 9000, the embedding has 1024 rows,"),
    ],
)
def test_tokenizers_that_a_file_cannot_describe_are_refused(change: dict[str, Any], message: str) -> None:
    document = {**json.loads((DEMO / "tokenizer.json").read_text()), **change}
    with pytest.raises(UnsupportedError, match=f"{message}.* cannot be written to a GGUF file"):
        vocabulary_keys(json.dumps(document).encode(), 1024, "m.ggq")


def test_ways_to_cut_texts_are_known_by_their_expressions() -> None:
    document = json.loads((DEMO / "tokenizer.json").read_text())
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    assert vocabulary_keys(json.dumps(document).encode(), 1024, "m")["tokenizer.ggml.pre"] == "dbrx"
    document["model"]["ignore_merges"] = True
    assert vocabulary_keys(json.dumps(document).encode(), 1024, "m")["tokenizer.ggml.pre"] == "llama-bpe"
    digits = {"type": "Digits", "individual_digits": True}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, {**level, "use_regex": True}]}
    assert vocabulary_keys(json.dumps(document).encode(), 1024, "m")["tokenizer.ggml.pre"] == "smollm"


def test_biases_of_queries_and_keys_are_put_in_pairs_as_their_rows_are(tmp_path: Path) -> None:
    config = CONFIGS["grouped"] | {"attention_bias": True}
    given = checkpoint(config)
    ours = write_ggq(tmp_path / "m.ggq", config, given, "f32")
    export_gguf(ours, tmp_path / "m.gguf")
    with GGUFReader(tmp_path / "m.gguf") as file:
        found = file.raw("blk.0.attn_q.bias").view("<f4")
    bias = given["model.layers.0.self_attn.q_proj.bias"]
    dim = len(bias) // config["num_attention_heads"]
    np.testing.assert_array_equal(found[:4], bias[[0, dim // 2, 1, dim // 2 + 1]])
    with ggq.load(ours, interpreter="numpy") as one, ggq.load(tmp_path / "m.gguf", interpreter="numpy") as other:
        np.testing.assert_array_equal(one.logits([3, 4, 5]), other.logits([3, 4, 5]))


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    config = {**family_config("gemma2"), "query_pre_attn_scalar": 7}
    ours = write_ggq(tmp_path / "m.ggq", config, family_checkpoint("gemma2"), "f32")
    with pytest.raises(UnsupportedError, match="scale: .* cannot be said in a GGUF file of this architecture"):
        export_gguf(ours, tmp_path / "m.gguf")
    qwen = write_ggq(tmp_path / "q.ggq", FAMILIES["qwen3"], family_checkpoint("qwen3"), "f32")
    with pytest.raises(UnsupportedError, match="Qwen3ForCausalLM with biases is not written"):
        export_gguf(qwen, tmp_path / "m.gguf")
    other = write_ggq(tmp_path / "o.ggq", FAMILIES["olmo3"], family_checkpoint("olmo3"), "f32")
    with pytest.raises(UnsupportedError, match="Olmo3ForCausalLM is not written as a GGUF file; supported: Llama"):
        export_gguf(other, tmp_path / "m.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.ggq", "o.ggq", "q.ggq"]


def test_options_and_places(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="type must be one of f32, f16, .*, not 'q9'"):
        export_gguf(demo, tmp_path / "m.gguf", type="q9")
    taken = tmp_path / "m.gguf"
    taken.write_bytes(b"mine")
    with pytest.raises(GGQError, match="already"):
        export_gguf(demo, taken)
    assert taken.read_bytes() == b"mine"
    found = json.loads(run_ggq("export", demo, taken, "--type", "q4_0", "--force", "--json").stdout)
    assert found["types"] == {"Q8_0": 1, "F32": 9, "Q4_0": 28} and found["bytes"] == taken.stat().st_size
    with pytest.raises(GGQError):
        export_gguf(demo, demo, force=True)
    refused = run_ggq("export", demo, tmp_path / "folder", "--type", "q4_0")
    assert refused.returncode == 2 and "--type, --mix, --imatrix and --force are for GGUF files" in refused.stderr


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def pieces() -> Any:
        yield np.zeros(4, np.uint8)
        raise UsageError("broken")

    with pytest.raises(UsageError, match="broken"):
        write_gguf(tmp_path / "m.gguf", {}, [GGUFTensor("w", (2,), 0, pieces)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="a name of more than 255 bytes"):
        write_gguf(tmp_path / "m.gguf", {}, [GGUFTensor("w" * 256, (2,), 0, pieces)])
    with pytest.raises(UsageError, match="is no value of a GGUF file"):
        encoded_value(-1)


def test_a_number_too_large_for_f16_is_refused(tmp_path: Path) -> None:
    tensors = checkpoint(WIDE)
    name = next(name for name, values in tensors.items() if values.ndim == 2)
    tensors[name][0, 0] = 1e6
    ours = write_ggq(tmp_path / "m.ggq", WIDE, tensors, "f32")
    with pytest.raises(UsageError, match="a number is too large for f16"):
        export_gguf(ours, tmp_path / "m.gguf", type="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["m.ggq"]
