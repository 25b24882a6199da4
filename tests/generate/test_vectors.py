"""Vectors and scores of texts: tokens, pooling, prompts, what is cut, the command; a real model where there is one."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.convert.convert import plan
from ggq.convert.source.sentence import MODULES, read_pooling
from ggq.errors import ConvertError, FormatError, GGQError, ModelError, UnsupportedError, UsageError
from ggq.format.scheme_names import scheme_name
from ggq.generate.loading import load
from ggq.generate.vectors import Tokens
from tests.kit.checkpoints import TEXT, tiny
from tests.kit.family_models import FACTS as FAMILY_FACTS
from tests.kit.family_models import LOGITS as FAMILY_LOGITS
from tests.kit.family_models import checkpoint as family
from tests.kit.small_encoders import ENCODERS, encoder_checkpoint
from tests.kit.small_families import FAMILIES
from tests.kit.support import run_ggq
from tests.models.test_encoders import FACTS, write_folder, write_tensors

WORDS = "[PAD] [UNK] [CLS] [SEP] a cat dog sat on the mat ##s . query : b c".split()
"""The vocabulary; the model has a few rows more."""

TEXTS = ["a cat", "the dogs sat on the mat .", "cats", "a b c a b c a b c a b c a b c a b c"]


def tokenizer() -> bytes:
    """A tokenizer of words, as BERT's, which asks for cutting and filling up as files on the hub do."""
    ids = {word: number for number, word in enumerate(WORDS)}
    plain = {"special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
    special = [{"id": number, "content": word, **plain} for number, word in enumerate(WORDS[:4])]
    cls, sep = ({"id": word, "ids": [ids[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]"))
    first = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    end = [{"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": {
                "strategy": {"Fixed": 9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
            "added_tokens": special,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": first + end,
                "pair": first + end + second,
                "special_tokens": {"[CLS]": cls, "[SEP]": sep},
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        }
    ).encode()


def folder(path: Path, name: str = "bert", pooling: dict[str, Any] | None = None, **config: Any) -> Path:
    """A checkpoint of sentence-transformers."""
    config = {"pad_token_id": 0, **config} if name == "bert" else config
    write_folder(path, name, **config)
    (path / "tokenizer.json").write_bytes(tokenizer())
    kinds = ("Transformer", "Pooling", "Normalize") if pooling is None else ("Transformer", "Pooling")
    named = [(f"sentence_transformers.models.{kind}", f"{n}_{kind}" if n else "") for n, kind in enumerate(kinds)]
    modules = [{"type": kind, "path": place} for kind, place in named]
    (path / MODULES).write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    prompts = {"prompts": {"query": "query : ", "document": ""}}
    (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    report = ggq.convert(folder(path / "m"), path / "m.ggq", scheme="f32")
    assert not report.ignored and not report.unread_keys
    return path / "m.ggq"


def ids_of(text: str, limit: int = 16) -> list[int]:
    words = text.replace("dogs", "dog ##s").replace("cats", "cat ##s").split()
    return [2, *(WORDS.index(word) for word in words)][: limit - 1] + [3]


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_vectors_are_rows_of_the_texts(pool: str, tmp_path: Path) -> None:
    """The mean of the rows, or one; not of length 1 where nobody asks for that."""
    key = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}[pool]
    modes = {f"pooling_mode_{each}": each == key for each in ("mean_tokens", "cls_token", "lasttoken", "max_tokens")}
    ggq.convert(folder(tmp_path / "m", pooling=modes), tmp_path / "m.ggq", scheme="f32")
    with load(tmp_path / "m.ggq", interpreter="numpy") as model:
        found = model.embed(TEXTS[:3])
        assert found.dtype == np.float32 and found.shape == (3, 40)
        from ggq.tape.program import Run

        for text, vector in zip(TEXTS, found):
            sequence = model.executor.open_sequence()
            rows = model.executor.forward([Run(sequence, np.array(ids_of(text), np.int32), "all")])
            want = {"mean": rows.mean(axis=0), "first": rows[0], "last": rows[-1]}[pool]
            np.testing.assert_allclose(vector, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(model.embed(TEXTS[0]), found[0])


@pytest.mark.kernels
@pytest.mark.parametrize("interpreter", ["numpy", "numba"])
def test_a_text_has_one_vector_whatever_stands_beside_it(bert: Path, interpreter: str) -> None:
    """Of length 1; nothing of what tokenizer.json says of cutting and filling up."""
    with load(bert, interpreter=interpreter) as model:
        assert model.config.context_length == 16
        together = model.embed(TEXTS[:3])
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(together, np.stack([model.embed(text) for text in TEXTS[:3]]))
        assert model.embed([]).shape == (0, 40)


def test_long_texts_are_cut_and_it_is_said(bert: Path) -> None:
    with load(bert, interpreter="numpy") as model:
        with pytest.warns(UserWarning, match="1 of 4 texts were cut after 16 tokens"):
            found = model.embed(TEXTS)
        words = " ".join(TEXTS[3].split()[:14])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(found[3], model.embed(words))
        with pytest.raises(UsageError, match="the tokens of text 4 of 4 do not fit into the model's context of 16"):
            model.embed(TEXTS, truncate=False)


def test_prompts_stand_before_texts(bert: Path) -> None:
    with load(bert, interpreter="numpy") as model:
        asked = model.embed("a cat", prompt="query")
        np.testing.assert_array_equal(asked, model.embed("query : a cat"))
        np.testing.assert_array_equal(model.embed("a cat", prompt="document"), model.embed("a cat"))
        with pytest.raises(UsageError, match="the model has no prompt 'title'; it has 'query', 'document'"):
            model.embed("a cat", prompt="title")


def test_what_is_no_text_is_refused(bert: Path) -> None:
    with load(bert, interpreter="numpy") as model:
        for text, message in ((3, "texts are strings, not int"), ("\ud800", "a text is not Unicode")):
            with pytest.raises(UsageError, match=message):
                model.embed(["a", text])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="the model is closed"):
        model.embed("a")


def test_a_model_of_vectors_continues_no_text(bert: Path) -> None:
    with load(bert, interpreter="numpy") as model:
        for call in (lambda: model.generate("a"), lambda: model.logits([4]), lambda: next(model.stream("a"))):
            with pytest.raises(UnsupportedError, match="the model makes vectors of texts, and continues none"):
                call()
    done = run_ggq("eval", bert, "--text", bert)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_model_that_continues_texts_makes_no_vectors_unless_asked(tmp_path: Path) -> None:
    """The last token's row of a decoder, whose output is left out; the same tensors by other names."""
    ggq.convert(tiny(tmp_path / "m"), tmp_path / "a.ggq", scheme="f32")
    with load(tmp_path / "a.ggq", interpreter="numpy") as model:
        with pytest.raises(UnsupportedError, match="the model continues texts, and makes no vectors of them"):
            model.embed("a")
    report = ggq.convert(tmp_path / "m", tmp_path / "b.ggq", scheme="f32", pooling="last")
    with load(tmp_path / "b.ggq", interpreter="numpy") as model:
        found = model.embed(["def f(a):", "return a"])
        assert found.shape == (2, model.config.hidden_size) and not np.allclose(found[0], found[1])
        assert set(report.ignored) <= {"lm_head.weight"}
    with pytest.raises(UsageError, match="pooling must be mean, first or last, not 'max'"):
        ggq.convert(tmp_path / "m", tmp_path / "c.ggq", pooling="max")


def test_scores_rank_texts(tmp_path: Path) -> None:
    """A query and a text are read as a pair, of which the second is of type 1."""
    path = tmp_path / "m"
    write_folder(path, "bert_scores", pad_token_id=0)
    (path / "tokenizer.json").write_bytes(tokenizer())
    ggq.convert(path, tmp_path / "m.ggq", scheme="f32")
    with load(tmp_path / "m.ggq", interpreter="numpy") as model:
        found = model.rerank("a cat", TEXTS[:2])
        first, second = ids_of("a cat"), ids_of("the dogs sat on the mat .")[1:]
        types = np.array([0] * len(first) + [1] * len(second))
        pair = Tokens(np.array(first + second, np.int32), types, False)
        np.testing.assert_allclose(found[1], model.vectors.results([pair])[0, 0], rtol=1e-6)
        assert found.shape == (2,) and found[0] != found[1]
        with pytest.raises(UnsupportedError, match="the model gives scores of texts, and no vectors"):
            model.embed("a")


def test_vectors_rank_texts_by_their_cosine(bert: Path) -> None:
    with load(bert, interpreter="numpy") as model:
        vectors = model.embed(["a cat", *TEXTS[:3]])
        np.testing.assert_allclose(model.rerank("a cat", TEXTS[:3]), vectors[1:] @ vectors[0], rtol=1e-5)


def test_three_scores_rank_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "xlm_roberta")
    (tmp_path / "m" / "tokenizer.json").write_bytes(tokenizer())
    ggq.convert(tmp_path / "m", tmp_path / "m.ggq", scheme="f32")
    with load(tmp_path / "m.ggq", interpreter="numpy") as model:
        with pytest.raises(UnsupportedError, match="the model gives 3 scores of a text, and one is needed"):
            model.rerank("a", ["b"])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({MODULES: "{}"}, FormatError, "an object found, a list of modules expected"),
        ({MODULES: "[]x"}, FormatError, "modules.json"),
        (
            {MODULES: '[{"type": "sentence_transformers.models.LSTM"}]'},
            UnsupportedError,
            "0.type: 'LSTM' is not supp",
        ),
        ({MODULES: '[{"type": "sentence_transformers.models.Dense"}]'}, ModelError, "0.path: missing"),
        (
            {MODULES: '[{"type": "a.Normalize"}, {"type": "a.Dense", "path": "2_Dense"}]'},
            UnsupportedError,
            "a matrix behind Normalize is not supported",
        ),
        (
            {MODULES: '[{"type": "a.Pooling", "path": "../.."}]'},
            ModelError,
            "0.path: '../..' found, the name of a folder",
        ),
        (
            {"1_Pooling/config.json": '{"pooling_mode_max_tokens": true}'},
            UnsupportedError,
            "supported: one of pooling_m",
        ),
        ({"1_Pooling/config.json": "{}"}, UnsupportedError, "no way of pooling' is not supported"),
        (
            {"1_Pooling/config.json": '{"pooling_mode_mean_tokens": true, "include_prompt": false}'},
            UnsupportedError,
            "include_prompt: false is not supported",
        ),
        ({"sentence_bert_config.json": '{"max_seq_length": 0}'}, ModelError, "max_seq_length: 0 found, 1 to"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    changes: dict[str, str], kind: type[GGQError], message: str, tmp_path: Path
) -> None:
    path = folder(tmp_path / "m")
    for name, text in changes.items():
        (path / name).write_text(text)
    with pytest.raises(kind, match=message):
        ggq.convert(path, tmp_path / "m.ggq")


def test_a_missing_file_of_the_pooling_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ConvertError, match=r"1_Pooling/config\.json: missing"):
        ggq.convert(path, tmp_path / "m.ggq")


def test_the_default_scheme_and_targets(tmp_path: Path) -> None:
    """A mix is solved for by what it does to logits, which such a model has not."""
    path = folder(tmp_path / "m")
    report = ggq.convert(path, tmp_path / "m.ggq")
    assert {tensor.scheme for tensor in report.tensors if len(tensor.shape) == 2} == {"q8-g32", "f16"}
    for options in ({"preset": "small"}, {"target_bpw": 4.0}, {"target_size": "1MB"}):
        with pytest.raises(UsageError, match="needs a model with logits, and this one makes vectors of texts"):
            ggq.convert(path, tmp_path / "n.ggq", **options)


def test_sensitive_matrices_get_more_bits_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    up, value, other = "intermediate.dense.weight", "self.value.weight", "self.query.weight"

    def schemes(**options: Any) -> dict[str, set[str]]:
        planned = plan(path, **options)
        return {
            end: {scheme_name(t.scheme) for t in planned.tensors if t.name.endswith(end)} for end in (up, value, other)
        }

    assert schemes(scheme="q4-g32") == {up: {"q6-g32"}, value: {"q6-g32"}, other: {"q4-g32"}}
    assert schemes(scheme="q8-g32") == schemes() == {up: {"q8-g32"}, value: {"f16"}, other: {"q8-g32"}}
    assert schemes(scheme="f32") == dict.fromkeys((up, value, other), {"f32"})
    assert schemes(scheme="q4-g32", keep=["value=q4-g32"])[value] == {"q4-g32"}
    (tmp_path / "recipe.toml").write_text('scheme = "q4-g32"\n')
    assert schemes(recipe=tmp_path / "recipe.toml") == dict.fromkeys((up, value, other), {"q4-g32"})


def test_old_names_of_norms(tmp_path: Path) -> None:
    """The first BERTs call a norm's numbers gamma and beta."""
    tensors = encoder_checkpoint(FACTS["models"]["bert"]["tensors"])
    names = {name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta") for name in tensors}
    old = {names[name]: values for name, values in tensors.items()}
    write_folder(tmp_path / "m", "bert", old)
    report = ggq.convert(tmp_path / "m", tmp_path / "m.ggq", scheme="f32")
    assert not report.ignored and len(report.tensors) == len(tensors) and report.notes


def test_calibrated_methods_take_an_encoder(tmp_path: Path) -> None:
    """Windows of a text go through whole layers, tokens seeing those behind them."""
    path = folder(tmp_path / "m")
    (tmp_path / "text.txt").write_text("the cats sat on the mat . a dog sat on a cat . " * 60)
    options = {"scheme": "q4-g32", "method": "gptq", "calibration": tmp_path / "text.txt", "calibration_tokens": 300}
    ggq.convert(path, tmp_path / "m.ggq", **options)
    ggq.convert(path, tmp_path / "f.ggq", scheme="f32")
    found = []
    for name in ("m", "f"):
        with load(tmp_path / f"{name}.ggq", interpreter="numpy", activations="float32") as model:
            found.append(model.embed(TEXTS[:3]))
    assert ((found[0] * found[1]).sum(axis=1) > 0.9).all()


def test_windows_stand_between_the_tokens_that_texts_get(tmp_path: Path) -> None:
    """As sentences do, of 32 tokens."""
    from ggq.convert.calibrate.calibration_text import read_windows
    from ggq.convert.source.tokens import Tokens as Special

    (tmp_path / "text.txt").write_text("the cat sat on a mat . " * 30)
    windows = read_windows(tmp_path / "text.txt", tokenizer(), Special(None, (), None), 10, 40).windows
    assert windows.shape == (4, 10) and (windows[:, 0] == 2).all() and (windows[:, -1] == 3).all()
    assert not np.isin(windows[:, 1:-1], [0, 2, 3]).any()


def test_a_vocabulary_of_words_becomes_a_tokenizer(tmp_path: Path) -> None:
    """vocab.txt alone, in capitals and lower case; other classes that have such a file are refused."""
    path = write_folder(tmp_path / "m", "bert", pad_token_id=0)
    (path / "vocab.txt").write_text("\n".join([*WORDS, "CAT", "É"]) + "\n", encoding="utf-8")
    report = ggq.convert(path, tmp_path / "m.ggq", scheme="f32")
    assert "no tokenizer.json: made of vocab.txt" in report.notes
    with load(tmp_path / "m.ggq", interpreter="numpy") as model:
        assert model.encode("The CATS sat on é") == [2, 9, 5, 11, 7, 8, 1, 3]
        (pair,) = model.vectors.tokens([("a", "cat")])
        assert (
            pair.ids.tolist() == [2, 4, 3, 5, 3] and pair.types is not None and pair.types.tolist() == [0, 0, 0, 1, 1]
        )
    (path / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    )
    ggq.convert(path, tmp_path / "n.ggq", scheme="f32")
    with load(tmp_path / "n.ggq", interpreter="numpy") as model:
        assert model.encode("the CAT É") == [2, 9, 17, 18, 3]
    cases = [
        (
            {"tokenizer_class": "EsmTokenizer"},
            WORDS,
            UnsupportedError,
            "'EsmTokenizer' reads it; known are BertTokenizer",
        ),
        ({"do_lower_case": 3}, WORDS, ModelError, "do_lower_case: 3 found, true or false expected"),
        ({}, WORDS[3:], ConvertError, r"no token '\[UNK\]' in it, which is the unk_token"),
        ({}, None, FormatError, "vocab.txt: not UTF-8 at byte 1"),
    ]
    for settings, words, kind, message in cases:
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        (path / "vocab.txt").write_bytes(b"a\xff" if words is None else "\n".join(words).encode())
        with pytest.raises(kind, match=message):
            ggq.convert(path, tmp_path / "o.ggq", scheme="f32")


def test_a_decoder_of_sentence_transformers_gives_its_last_row(tmp_path: Path) -> None:
    """As Qwen3-Embedding: tensors without "model." in front, the last token's row, of length 1, and no output."""
    config = {**FAMILIES["qwen3"], "max_position_embeddings": 64, "tie_word_embeddings": True}
    tensors = {
        name.removeprefix("model."): values for name, values in family("qwen3").items() if name != "lm_head.weight"
    }
    path = write_tensors(folder(tmp_path / "m", pooling={"pooling_mode_lasttoken": True}), tensors, config)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"x.{kind}", "path": "1_Pooling" if kind == "Pooling" else ""} for kind in kinds]
    (path / MODULES).write_text(json.dumps(modules))
    report = ggq.convert(path, tmp_path / "m.ggq", scheme="f32")
    assert not report.ignored
    ids = FAMILY_FACTS["models"]["qwen3"]["prompts"][2]
    for interpreter in ("numpy", "numba"):
        with load(tmp_path / "m.ggq", interpreter=interpreter) as model:
            found = model.vectors.results([Tokens(np.array(ids, np.int32), None, False)])[0]
        logits = found @ family("qwen3")["lm_head.weight"].T
        want = FAMILY_LOGITS["qwen3.2"][-1]
        np.testing.assert_allclose(logits / np.linalg.norm(logits), want / np.linalg.norm(want), atol=2e-5)


def test_the_command(bert: Path, tmp_path: Path) -> None:
    with load(bert, interpreter="numpy") as model:
        vectors = model.embed(TEXTS[:3])
    base = ("embed", bert, "--interpreter", "numpy")
    done = run_ggq(*base, *TEXTS[:2])
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose([json.loads(line) for line in done.stdout.splitlines()], vectors[:2], rtol=1e-6)
    (tmp_path / "t.txt").write_text("\n".join(TEXTS[:3]) + "\n")
    assert run_ggq(*base, "--file", tmp_path / "t.txt", "--npy", tmp_path / "v.npy").returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    done = run_ggq(*base, "--query", "a cat", "--json", *TEXTS[:3])
    np.testing.assert_allclose(json.loads(done.stdout)["scores"], vectors @ vectors[0], rtol=1e-5)
    done = run_ggq(*base, TEXTS[3])
    assert done.returncode == 0 and "note: 1 of 1 texts were cut after 16 tokens" in done.stderr
    done = run_ggq(*base)
    assert done.returncode == 2 and "no text was given" in done.stderr
    (tmp_path / "bad.txt").write_bytes(b"a\xff")
    done = run_ggq(*base, "--file", tmp_path / "bad.txt")
    assert done.returncode == 2 and "is not UTF-8 at byte 1" in done.stderr


def real() -> Path:
    """all-MiniLM-L6-v2, in the folder that the environment names; see tools/bench_embed.py."""
    path = Path(os.environ.get("GGQ_REAL_MODELS", "")) / "minilm"
    if not (path / "model.safetensors").exists():
        pytest.skip("needs all-MiniLM-L6-v2 in the folder minilm of GGQ_REAL_MODELS")
    return path


def test_minilm_gives_what_it_gives_in_float64(tmp_path: Path) -> None:
    """By hand in NumPy, and in three schemes; the least cosine over 32 sentences."""
    path, sentences = real(), [line for line in TEXT.splitlines() if line.strip()][:32]
    ggq.convert(path, tmp_path / "f32.ggq", scheme="f32")
    with load(tmp_path / "f32.ggq", interpreter="numpy") as model:
        exact = model.embed(sentences)
    for scheme, least in (("f32", 0.999999), ("q8-g32", 0.9995), ("q4-g32", 0.97)):
        if scheme != "f32":
            ggq.convert(path, tmp_path / f"{scheme}.ggq", scheme=scheme)
        with load(tmp_path / f"{scheme}.ggq") as model:
            assert (model.embed(sentences) * exact).sum(axis=1).min() > least


def test_a_folder_without_modules_asks_for_nothing(tmp_path: Path) -> None:
    from ggq.convert.source.folder import Folder

    write_folder(tmp_path / "m", "bert")
    assert read_pooling(Folder(tmp_path / "m")) is None and "bert" in ENCODERS
