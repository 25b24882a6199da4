"""Models in GGUF files give the logits of the checkpoints that they were made of, and their tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.errors import ConvertError, FormatError, GGQError, ModelError, UnsupportedError
from ggq.format.gguf.types import TYPES
from ggq.gguf import container
from ggq.gguf.blocks import numbers, rows_of
from ggq.gguf.container import GGUFModel, tensor_name
from ggq.gguf.tokens.vocabulary import Vocabulary
from ggq.models.build import role_shapes
from ggq.models.registry import find_architecture
from tests.gguf.test_blocks import IDS
from tests.kit.family_models import CONFIGS as FAMILIES
from tests.kit.family_models import checkpoint as family_checkpoint
from tests.kit.family_models import spec_of
from tests.kit.gguf_files import write_gguf
from tests.kit.small_models import CONFIGS, SIZES, checkpoint, made, prompt, write_ggq
from tests.kit.support import DEMO, run_ggq, shared

RNG = np.random.default_rng(5)


def pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as converters write them for "llama": halves of a head as pairs."""
    dim = len(rows) // heads
    order = [head * dim + half * (dim // 2) + i for head in range(heads) for i in range(dim // 2) for half in (0, 1)]
    return rows[order]


def keys_of(config: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    found = {
        "general.architecture": name,
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config.get("num_key_value_heads", config["num_attention_heads"]),
        f"{name}.attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        f"{name}.rope.freq_base": float(config.get("rope_theta", 10000.0)),
    }
    return found | {f"{name}.{key}": value for key, value in more.items()}


def llama(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a GGUF file of a Llama."""
    tensors, family = checkpoint(config), find_architecture(config)
    found = {}
    for spec in family.tensors(family.config(config)):
        if spec.role:
            values = made(spec, tensors)
            if spec.role.endswith(("attention.q.weight", "attention.k.weight")):
                heads = config["num_attention_heads" if ".q." in spec.role else "num_key_value_heads"]
                values = pairs(values, heads)
            found[tensor_name(spec.role)] = values
    return found


GROUPED = {**CONFIGS["grouped"], "intermediate_size": 64}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf", keys_of(GROUPED, "llama"), llama(GROUPED))


def logits(path: Path, tokens: list[int], interpreter: str = "numpy", **options: Any) -> np.ndarray:
    with ggq.load(path, interpreter=interpreter, activations="float32", cache="f32", **options) as model:
        return model.logits(tokens)


def test_a_llama_has_its_rows_put_back(plain: Path, tmp_path: Path) -> None:
    tokens = prompt(GROUPED, 40)
    ours = write_ggq(tmp_path / "m.ggq", GROUPED, checkpoint(GROUPED), "f32")
    np.testing.assert_allclose(logits(plain, tokens), logits(ours, tokens), atol=1e-6)


@pytest.mark.parametrize("interpreter", ["numba", "numpy"])
def test_a_file_cut_short_while_it_is_laid_out_is_told(
    plain: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    def cut(*arguments: Any) -> Any:
        if plain.stat().st_size > 1000:
            os.truncate(plain, 1000)
        return rows_of(*arguments)

    monkeypatch.setattr(container, "rows_of", cut)
    with pytest.raises(FormatError, match="1000 bytes found, [0-9]+ when it was opened"):
        logits(plain, prompt(GROUPED, 5), interpreter)


@pytest.mark.kernels
def test_kernels_run_it(plain: Path, tmp_path: Path) -> None:
    tokens = prompt(GROUPED, 40)
    found, expected = logits(plain, tokens, "numba"), logits(plain, tokens)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "architecture"), [("qwen2", "qwen2"), ("gemma2", "gemma2")])
def test_other_architectures(name: str, architecture: str, tmp_path: Path) -> None:
    config = {key: value for key, value in FAMILIES[name].items() if key != "query_pre_attn_scalar"}
    if "head_dim" in config:
        config["query_pre_attn_scalar"] = config["head_dim"]  # a GGUF file has no other
    family = find_architecture(config)
    spec, tensors = family.config(config), family_checkpoint(name)
    theirs = {tensor_name(each.role): made(each, tensors) for each in family.tensors(spec) if each.role}
    more: dict[str, Any] = {}
    if "head_dim" in config:
        more = {"attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"]}
    if name == "gemma2":
        more |= {"attention.sliding_window": config["sliding_window"]}
        more |= {f"{key}ping": config[f"{key}ping"] for key in ("attn_logit_softcap", "final_logit_softcap")}
    path = write_gguf(tmp_path / "m.gguf", keys_of(config, architecture, **more), theirs)
    ours = write_ggq(tmp_path / "m.ggq", config, tensors, "f32")
    tokens = [int(token) for token in RNG.integers(0, 61, 40)]
    np.testing.assert_allclose(logits(path, tokens), logits(ours, tokens), atol=1e-6)


SCALES = {"Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82)}
"""Where blocks have their halves; others have one at their beginning."""
BYTE_SCALES = {"MXFP4": (1, 118), "NVFP4": (4, 0x22)}
"""How many bytes of scales blocks begin with instead, and a small one."""


def quantized(tensors: dict[str, np.ndarray], kind: str) -> dict[str, Any]:
    """Matrices as random blocks of a type, with small scales; vectors as they are."""
    found: dict[str, Any] = {}
    block = TYPES[IDS[kind]]
    for name, values in tensors.items():
        if values.ndim == 1:
            found[name] = values
            continue
        raw = RNG.integers(0, 256, (values.size // block.numbers, block.bytes), dtype=np.uint8)
        if kind in BYTE_SCALES:
            count, scale = BYTE_SCALES[kind]
            raw[:, :count] = scale
        else:
            for place in SCALES.get(kind, (0,)):
                raw[:, place : place + 2] = np.frombuffer(np.float16(0.004).tobytes(), np.uint8)
        found[name] = (kind, values.shape, raw.tobytes())
    return found


WIDE = {**GROUPED, "hidden_size": 256, "intermediate_size": 512}


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K"])
def test_types_that_a_scheme_expresses_are_kept_number_for_number(kind: str, tmp_path: Path) -> None:
    tensors = quantized(llama(WIDE), kind)
    path = write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), tensors)
    report = ggq.convert(path, tmp_path / "m.ggq")
    assert not report.notes and all(tensor.relative_rmse == 0 for tensor in report.tensors)
    with ggq.open(tmp_path / "m.ggq") as file:
        name = "blk.1.ffn_down.weight"
        raw = np.frombuffer(tensors[name][2], np.uint8)
        expected = numbers(IDS[kind], rows_of(IDS[kind], raw, tensors[name][1]))
        np.testing.assert_array_equal(file.tensors[name].dequantize(), expected)
    tokens = prompt(WIDE, 20)
    np.testing.assert_array_equal(logits(path, tokens), logits(tmp_path / "m.ggq", tokens))
    again = run_ggq("convert", path, tmp_path / "again.ggq")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.ggq").read_bytes() == (tmp_path / "m.ggq").read_bytes()


@pytest.mark.parametrize(("kind", "scheme"), [("IQ2_XS", "c3-g16-s6+scale"), ("MXFP4", "c4-g32")])
def test_what_grows_is_told(kind: str, scheme: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), quantized(llama(WIDE), kind))
    report = ggq.convert(path, tmp_path / "m.ggq")
    (note,) = report.notes
    assert f"({kind.lower()}) are kept number for number in larger schemes" in note
    assert {tensor.scheme for tensor in report.tensors if len(tensor.shape) > 1} == {scheme}
    assert max(tensor.relative_rmse for tensor in report.tensors) == 0
    tokens = prompt(WIDE, 20)
    np.testing.assert_array_equal(logits(path, tokens), logits(tmp_path / "m.ggq", tokens))


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["Q6_K", "IQ4_XS"])
def test_kernels_run_every_form(kind: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), quantized(llama(WIDE), kind))
    tokens = prompt(WIDE, 20)
    found, expected = logits(path, tokens, "numba"), logits(path, tokens)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_weights_too_small_for_the_scales_of_another_scheme_are_refused_by_name(tmp_path: Path) -> None:
    tensors, name = quantized(llama(WIDE), "IQ4_NL"), "blk.1.ffn_down.weight"
    raw = np.frombuffer(tensors[name][2], np.uint8).reshape(-1, 18).copy()
    raw[:, :2] = np.frombuffer(np.float16(1e-7).tobytes(), np.uint8)
    tensors[name] = ("IQ4_NL", tensors[name][1], raw.tobytes())
    path, out = write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), tensors), tmp_path / "m.ggq"
    small = rf"m.gguf: tensor {name}: weights of .*e-06 \(root mean square\) are too small for the f16 scales of q8-g32"
    with pytest.raises(ConvertError, match=small) as told:
        ggq.convert(path, out, scheme="q8-g32")
    assert not out.exists()
    keep = str(told.value).removesuffix("'").rsplit("--keep '", 1)[1]
    report = ggq.convert(path, out, scheme="q8-g32", keep=[keep])
    assert next(each for each in report.tensors if each.name == name).relative_rmse < 0.01
    assert np.isfinite(logits(out, [1, 2])).all()


def test_another_scheme_on_request(plain: Path, tmp_path: Path) -> None:
    report = ggq.convert(plain, tmp_path / "m.ggq", scheme="q4-g32", keep=["ffn_down=q8-g32"])
    schemes = {tensor.name: tensor.scheme for tensor in report.tensors}
    assert schemes["blk.0.ffn_up.weight"] == "q4-g32" and schemes["blk.0.ffn_down.weight"] == "q8-g32"
    assert schemes["token_embd.weight"] == "q6-g32" and schemes["blk.0.attn_norm.weight"] == "f32"
    with pytest.raises(GGQError, match="--calibration is for checkpoints"):
        ggq.convert(plain, tmp_path / "x.ggq", scheme="q4-g32", calibration="t.txt")
    with pytest.raises(GGQError, match="need --scheme"):
        ggq.convert(plain, tmp_path / "x.ggq", method="mse")
    with pytest.raises(GGQError, match="already"):
        ggq.convert(plain, tmp_path / "m.ggq")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.ggq", "m.gguf"]


def changed(tmp_path: Path, keys: dict[str, Any], tensors: dict[str, Any]) -> Path:
    return write_gguf(tmp_path / "x.gguf", keys, tensors)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "mamba"}, "'mamba' is not supported as a GGUF file; supported: llama, qwen2"),
        ({"llama.expert_count": 8}, "llama.expert_used_count: missing"),
        ({"llama.expert_group_count": 8}, "llama.expert_group_count: 8 is not supported"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight: missing"),
        ({"llama.block_count": 1}, "that the architecture does not have, such as blk.1"),
        ({"llama.embedding_length": 64}, "tensor .*: shape"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count: 0 heads found"),
        ({"llama.attention.head_count": "4"}, "'4' found, a whole number expected"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "'longrope' is not supported"),
        ({"llama.attention.value_length": 4}, "values of another width than keys"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = changed(tmp_path, {**keys_of(GROUPED, "llama"), **keys}, llama(GROUPED))
    with pytest.raises((ModelError, UnsupportedError), match=message) as refused:
        ggq.load(path, interpreter="numpy")
    assert str(path) in str(refused.value)


def test_llama3_scaling_is_read_from_its_factors(tmp_path: Path) -> None:
    config = CONFIGS["stretched"]
    lengths = 2 * np.pi * 10000.0 ** (np.arange(0, 16, 2) / 16)
    smooth = (32 / lengths - 1) / 3
    factors = np.where(lengths < 8, 1.0, np.where(lengths > 32, 8.0, 1 / ((1 - smooth) / 8 + smooth)))
    more = {"attention.key_length": 16, "rope.scaling.original_context_length": 32}
    keys, tensors = keys_of(config, "llama", **more), llama(config)
    path = changed(tmp_path, keys, {**tensors, "rope_freqs.weight": factors.astype(np.float32)})
    ours = write_ggq(tmp_path / "m.ggq", config, checkpoint(config), "f32")
    tokens = prompt(config, 80)
    np.testing.assert_allclose(logits(path, tokens), logits(ours, tokens), atol=1e-5)
    with pytest.raises(UnsupportedError, match="factors of frequencies that are not those of Llama 3"):
        ggq.load(changed(tmp_path, keys, {**tensors, "rope_freqs.weight": np.full(8, 3, np.float32)}))


def test_every_role_has_a_name() -> None:
    for name in ("qwen2", "qwen3", "gemma2", "gemma3"):
        names = [tensor_name(role) for role in role_shapes(spec_of(name)[1])]
        assert len(set(names)) == len(names)


def test_a_byte_level_vocabulary_is_the_tokenizer_that_it_was(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    document = json.loads((DEMO / "tokenizer.json").read_bytes())
    original = Tokenizer.from_str(json.dumps(document))
    size = original.get_vocab_size()
    types = np.ones(size, np.int32)
    types[[item["id"] for item in document["added_tokens"]]] = 3
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [str(original.id_to_token(i)) for i in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [
            " ".join(merge) if isinstance(merge, list) else merge for merge in document["model"]["merges"]
        ],
        "tokenizer.ggml.eos_token_id": 0,
    }
    vocabulary = Vocabulary(keys, "x")
    found = Tokenizer.from_str(vocabulary.document())
    for text in ("def f(a, b):\n    return a + b\n", "  x = 'ü' * 3  # été\t\n\n", "", "日本語 123 !?"):
        assert found.encode(text, add_special_tokens=False).ids == original.encode(text, add_special_tokens=False).ids
    assert vocabulary.ends == [0, 2] and not vocabulary.add_bos  # the file names the first, the other is known


def test_a_sentencepiece_vocabulary_merges_by_score() -> None:
    from tokenizers import Tokenizer

    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        "\u2581",
        "a",
        "b",
        "ab",
        "\u2581a",
        "ba",
        "<|x|>",
    ]
    scores = np.zeros(len(tokens), np.float32)
    scores[-7:] = [-10, -10, -10, -1, -3, -2, 0]
    types = np.array([2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1, 1, 4], np.int32)
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    vocabulary = Vocabulary(keys, "x")
    found = Tokenizer.from_str(vocabulary.document())
    base = 259

    def ids(text: str) -> list[int]:
        return list(found.encode(text, add_special_tokens=False).ids)

    assert ids("ab") == [base, base + 3]  # "ab" before "_a"
    assert ids("aba") == [base, base + 3, base + 1] and ids("ba") == [base, base + 5]
    assert ids("é") == [base, 3 + 0xC3, 3 + 0xA9] and found.decode(ids("é")) == "é"
    assert ids("a<|x|>b")[1] == base + 6 and vocabulary.add_bos and vocabulary.bos == 1
    for key, message in (("tokenizer.ggml.scores", "0 scores of"), ("tokenizer.ggml.token_type", None)):
        broken = {name: value for name, value in keys.items() if name != key}
        if message is None:
            Vocabulary(broken, "x").document()
        else:
            with pytest.raises(ModelError, match=message):
                Vocabulary(broken, "x").document()
    for key, value, refusal in (
        ("tokenizer.ggml.model", "rwkv", "tokenizer 'rwkv' is not supported"),
        ("tokenizer.ggml.bos_token_id", 5000, "token ids are 0 to"),
    ):
        with pytest.raises(GGQError, match=refusal):
            _ = Vocabulary({**keys, key: value}, "x").bos
    with pytest.raises(UnsupportedError, match="cut in the way 'odd'"):
        Vocabulary({**keys, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "odd"}, "x").document()


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3"])
def test_ids_are_those_that_llama_cpp_expects(name: str) -> None:
    from tokenizers import Tokenizer

    from ggq.format.gguf.reader import GGUFReader

    path = shared("gguf") / f"ggml-vocab-{name}.gguf"
    with GGUFReader(path) as reader:
        found = Tokenizer.from_str(Vocabulary(reader.metadata, str(path)).document())
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines):
        assert found.encode(text, add_special_tokens=False).ids == [int(number) for number in line.split()]


def test_the_command_line(tmp_path: Path) -> None:
    document = json.loads((DEMO / "tokenizer.json").read_bytes())
    config = {**SIZES, **GROUPED, "vocab_size": 64}
    path = write_gguf(tmp_path / "m.gguf", keys_of(config, "llama"), llama(config))
    refused = run_ggq("run", path, "-p", "x", "--interpreter", "numpy")
    assert refused.returncode == 2 and "the file holds no tokenizer" in refused.stderr
    shown = run_ggq("inspect", path, "--tensors")
    assert shown.returncode == 0 and "blk.1.ffn_down.weight" in shown.stdout and "GGUF version 3" in shown.stdout
    found = json.loads(run_ggq("inspect", path, "--json", "--tensors").stdout)
    assert found["metadata"]["llama.block_count"] == 2 and len(found["tensors"]) == len(llama(config))
    assert run_ggq("inspect", path, "--metadata", "llama.block_count").stdout == "2\n"
    near = run_ggq("inspect", path, "--metadata", "llama.block_cont")
    assert near.returncode == 2 and "did you mean llama.block_count" in near.stderr
    assert document["model"]["type"] == "BPE"


@pytest.mark.parametrize("kind", [9, 31, 36, 43, 255, 2**32 - 1])
def test_types_that_are_not_decoded_are_refused_by_name(kind: int, tmp_path: Path) -> None:
    """Found by fuzzing: the number was looked up in a table."""
    tensors: dict[str, Any] = dict(llama(CONFIGS["grouped"]))
    values = tensors["blk.0.ffn_up.weight"]
    tensors["blk.0.ffn_up.weight"] = (kind, values.shape, values.tobytes())
    path = write_gguf(tmp_path / "m.gguf", keys_of(CONFIGS["grouped"], "llama"), tensors)
    with pytest.raises(UnsupportedError, match="blk.0.ffn_up.weight: .*decoded"):
        model = GGUFModel(path)
        model.segments("blk.0.ffn_up.weight")


@pytest.mark.parametrize("key", ["token_type", "scores"])
@pytest.mark.parametrize("value", ["llama", "", 7, True, ["x"]])
def test_lists_of_a_vocabulary_that_are_none_are_refused(key: str, value: Any) -> None:
    """Found by fuzzing: a text was read as a number."""
    keys = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"], f"tokenizer.ggml.{key}": value}
    with pytest.raises(ModelError, match=f"tokenizer.ggml.{key}: .* expected"):
        Vocabulary(keys, "m").document()
