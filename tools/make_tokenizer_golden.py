"""Write tests/golden/tokenizers.npz: small tokenizers of every kind, and transformers' ids of a thousand texts.

    PYTHON tools/make_tokenizer_golden.py [OUT.npz]

PYTHON has transformers 5.24, tokenizers, sentencepiece and protobuf. Each kind is trained on README.md, saved in its
old form without tokenizer.json, and read by transformers. Kept are the files, the ids of the first texts, and a digest
of those of each. (mistral-common has the same ids of tekken.json but for special tokens, which it does not look for.)
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kit.strange_texts import texts  # noqa: E402

IN_FULL = 40
"""Texts whose ids are kept."""

OUT = ROOT / "tests" / "golden" / "tokenizers.npz"
CORPUS = (ROOT / "README.md").read_text(encoding="utf-8")
RULES = "FF21\t41\nFF22\t42\nFF43\t63\nFB01\t66 69\nE9\t65\n3000\t20\n9\t20\n"
"""Rules of normalizing: full-width letters, a ligature, an accent and white space."""

Encode = Callable[[str], Sequence[int]]


def sentencepiece_model(**settings: Any) -> bytes:
    """A model trained on README.md."""
    import sentencepiece

    made = io.BytesIO()
    lines = iter([line for line in CORPUS.split("\n") if line.strip()])
    usual = {"vocab_size": 600, "minloglevel": 2, "hard_vocab_limit": False, "num_threads": 1}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=made, **{**usual, **settings})
    return made.getvalue()


def byte_level() -> tuple[bytes, bytes]:
    """vocab.json and merges.txt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    made.train_from_iterator(
        [CORPUS], trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=special)
    )
    model = json.loads(made.to_str())["model"]
    merges = "\n".join(" ".join(merge) for merge in model["merges"])
    return json.dumps(model["vocab"]).encode(), f"#version: 0.2\n{merges}\n".encode()


def tekken() -> bytes:
    """tekken.json of the same merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    merges = [line.split(" ") for line in byte_level()[1].decode().splitlines()[1:]]
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(bytes_of[letter] for letter in left + right) for left, right in merges]
    names = ["<unk>", "<s>", "</s>", "[INST]"]
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "num_vocab_tokens": len(tokens),
        "default_vocab_size": len(tokens) + 10,
        "default_num_special_tokens": 10,
        "version": "v7",
    }
    listed = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    special = [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]
    return json.dumps({"config": config, "vocab": listed, "special_tokens": special}).encode()


def kinds() -> dict[str, tuple[dict[str, bytes], dict[str, Any], str]]:
    """Files, tokenizer_config.json and the model_type of each kind."""
    bpe = sentencepiece_model(
        model_type="bpe", byte_fallback=True, user_defined_symbols=["[INST]", "def"], normalization_rule_name="identity"
    )
    gemma = sentencepiece_model(
        model_type="bpe",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<mask>", "\n\n"],
    )
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write(RULES)
        rules.flush()
        unigram = sentencepiece_model(model_type="unigram", normalization_rule_tsv=rules.name, vocab_size=400)
        fallback = sentencepiece_model(
            model_type="unigram", byte_fallback=True, normalization_rule_tsv=rules.name, user_defined_symbols=["def"]
        )
    vocabulary, merges = byte_level()
    both = {"vocab.json": vocabulary, "merges.txt": merges}
    model = "tokenizer.model"
    return {
        "llama": ({model: bpe}, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False}, "llama"),
        "llama-legacy": (
            {model: bpe},
            {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_eos_token": True},
            "llama",
        ),
        "gemma": ({model: gemma}, {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}, "gemma"),
        "xlm-roberta": (
            {"sentencepiece.bpe.model": unigram},
            {"tokenizer_class": "XLMRobertaTokenizer"},
            "xlm-roberta",
        ),
        "plain-bpe": ({model: bpe}, {"tokenizer_class": "PreTrainedTokenizerFast"}, ""),
        "plain-unigram": ({model: fallback}, {"tokenizer_class": "PreTrainedTokenizerFast"}, ""),
        "gpt2": (both, {"tokenizer_class": "GPT2Tokenizer"}, "gpt2"),
        "qwen2": (both, {"tokenizer_class": "Qwen2Tokenizer"}, "qwen2"),
        "roberta": (both, {"tokenizer_class": "RobertaTokenizer"}, "roberta"),
        "tekken": ({"tekken.json": tekken()}, {}, "mistral"),
    }


def encoder(folder: Path, kind: str) -> Encode:
    """What gives the ids that are right."""
    if kind == "tekken":
        from transformers.integrations.mistral.tokenizer import MistralConverter

        made = MistralConverter(str(folder / "tekken.json")).converted()
        return lambda text: [1, *made.encode(text).ids]
    import transformers

    if kind.startswith("plain"):
        found = transformers.TokenizersBackend.from_pretrained(folder)
    else:
        found = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda text: found(text)["input_ids"]


def digest(ids: Sequence[int]) -> int:
    """Four bytes of a digest of a list of ids."""
    return int.from_bytes(hashlib.blake2b(np.array(ids, "<i4").tobytes(), digest_size=4).digest(), "little")


def main() -> None:
    """Write the file."""
    arrays: dict[str, Any] = {}
    for kind, (files, settings, model) in kinds().items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file, data in files.items():
                (folder / file).write_bytes(data)
                arrays[f"{kind}/file/{file}"] = np.frombuffer(data, np.uint8)
            if settings:
                (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            (folder / "config.json").write_text(json.dumps({"model_type": model or "llama"}))
            encode = encoder(folder, kind)
            ids = [list(encode(text)) for text in texts()]
        arrays[f"{kind}/settings"] = np.array(json.dumps([settings, model]))
        arrays[f"{kind}/digests"] = np.array([digest(each) for each in ids], np.uint32)
        arrays[f"{kind}/lengths"] = np.array([len(each) for each in ids[:IN_FULL]], np.int32)
        arrays[f"{kind}/ids"] = np.array([number for each in ids[:IN_FULL] for number in each], np.int32)
        print(kind, sum(map(len, ids)), "ids")
    np.savez_compressed(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT, **arrays)


if __name__ == "__main__":
    main()
