"""Tokenizers of checkpoints without tokenizer.json: ids of strange texts are those of transformers (S-23)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import ggq
from ggq.convert.source.assets import read_assets
from ggq.convert.source.folder import Folder
from ggq.convert.source.tokens import read_tokens
from ggq.convert.source.vocabularies.find import make_tokenizer
from ggq.errors import ConvertError, FormatError, GGQError, UnsupportedError
from tests.kit.checkpoints import tiny
from tests.kit.strange_texts import texts
from tests.kit.support import ROOT

GOLDEN = ROOT / "tests" / "golden" / "tokenizers.npz"
KINDS = (
    "llama",
    "llama-legacy",
    "gemma",
    "xlm-roberta",
    "plain-bpe",
    "plain-unigram",
    "gpt2",
    "qwen2",
    "roberta",
    "tekken",
)


def unpack(kind: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files of a kind; its tokenizer_config.json and config.json."""
    folder.mkdir(exist_ok=True)
    with np.load(GOLDEN) as golden:
        settings, model = json.loads(str(golden[f"{kind}/settings"]))
        for name in golden.files:
            if name.startswith(f"{kind}/file/"):
                (folder / name.rpartition("/")[2]).write_bytes(golden[name].tobytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model}))
    return settings, {"model_type": model}


def digest(ids: list[int]) -> int:
    return int.from_bytes(hashlib.blake2b(np.array(ids, "<i4").tobytes(), digest_size=4).digest(), "little")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_a_thousand_strange_texts_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    unpack(kind, tmp_path)
    folder, notes = Folder(tmp_path), list[str]()
    assets = read_assets(folder)
    read_tokens(folder, assets, 5000, notes)
    assert any(note.startswith("no tokenizer.json: made of ") for note in notes)
    made = Tokenizer.from_buffer(assets["tokenizer.json"])
    with np.load(GOLDEN) as golden:
        wanted, lengths, ids = (golden[f"{kind}/{name}"] for name in ("digests", "lengths", "ids"))
    found = [made.encode(text).ids for text in texts(len(wanted))]
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    for text, mine, right in zip(texts(len(parts)), found, parts):
        assert mine == right.tolist(), repr(text)
    wrong = [i for i, (mine, right) in enumerate(zip(found, wanted.tolist())) if digest(mine) != right]
    assert len(wanted) == 1000 and not wrong, [texts()[i] for i in wrong[:5]]


def test_a_model_is_converted_and_run_with_it(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m", shape=(32, 2, 4, 2, 44, 704))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    config = (folder / "config.json").read_bytes()
    unpack("llama", folder)
    (folder / "config.json").write_bytes(config)
    report = ggq.convert(folder, tmp_path / "m.ggq", scheme="f32")
    assert "no tokenizer.json: made of tokenizer.model" in report.notes
    with ggq.load(tmp_path / "m.ggq", interpreter="numpy") as model:
        ids = model.encode("the <s> def")
        assert ids[0] == 1 and model.tokenizer.decode(ids) == "the  def"
        assert isinstance(model.generate("the", max_tokens=2), str)


def refused(kind: str, folder: Path, change: Callable[[Path], object]) -> GGQError:
    settings, config = unpack(kind, folder)
    change(folder)
    text = (folder / "tokenizer_config.json").read_text()
    with pytest.raises(GGQError) as found:
        make_tokenizer(Folder(folder), json.loads(text), config)
    return found.value


def rewrite(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    """Change a JSON file."""

    def run(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return run


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


BROKEN: dict[str, tuple[str, Callable[[Path], object], type[GGQError], str]] = {
    "empty model": ("llama", write("tokenizer.model", b""), FormatError, "it has no pieces"),
    "cut model": (
        "llama",
        lambda f: write("tokenizer.model", (f / "tokenizer.model").read_bytes()[:777])(f),
        FormatError,
        "bytes are announced",
    ),
    "endless number": ("llama", write("tokenizer.model", b"\xff" * 20), FormatError, "more than ten bytes"),
    "wrong wire type": ("llama", write("tokenizer.model", b"\x0b"), FormatError, "a field of kind 3"),
    "number for a piece": ("llama", write("tokenizer.model", b"\x08\x01"), FormatError, "a number where text"),
    "piece of no text": ("llama", write("tokenizer.model", b"\x0a\x03\x0a\x01\xff"), FormatError, "utf-8"),
    "a model of words": (
        "llama",
        write("tokenizer.model", b"\x0a\x03\x0a\x01a\x12\x02\x18\x03"),
        UnsupportedError,
        "of words or characters",
    ),
    "ends of words": (
        "llama",
        write("tokenizer.model", b"\x0a\x03\x0a\x01a\x12\x05\x18\x02\xc0\x01\x01"),
        UnsupportedError,
        "marks the ends of words",
    ),
    "another kind": (
        "xlm-roberta",
        rewrite("tokenizer_config.json", lambda s: s.update(tokenizer_class="LlamaTokenizer")),
        ConvertError,
        "reads bpe models",
    ),
    "unknown class": (
        "llama",
        rewrite("tokenizer_config.json", lambda s: s.update(tokenizer_class="T5Tokenizer")),
        UnsupportedError,
        "'T5Tokenizer' reads it; known are",
    ),
    "no merges": ("gpt2", lambda f: (f / "merges.txt").unlink(), ConvertError, "merges.txt: missing"),
    "a line of one token": (
        "gpt2",
        write("merges.txt", b"#version: 0.2\na b\nabc\n"),
        FormatError,
        "line 3: 'abc' found",
    ),
    "merges of no text": ("gpt2", write("merges.txt", b"\xff\xfe"), FormatError, "not UTF-8 at byte 0"),
    "a merge of no token": ("gpt2", write("merges.txt", "日 本\n".encode()), ConvertError, "is no token of vocab.json"),
    "an id of text": ("gpt2", rewrite("vocab.json", lambda v: v.update(a="x")), FormatError, "a token's id expected"),
    "no token around texts": (
        "roberta",
        rewrite("vocab.json", lambda v: v.pop("</s>")),
        ConvertError,
        "which every text needs",
    ),
    "tekken without a pattern": (
        "tekken",
        rewrite("tekken.json", lambda v: v["config"].pop("pattern")),
        FormatError,
        "config.pattern",
    ),
    "tekken of old": (
        "tekken",
        rewrite("tekken.json", lambda v: v.pop("special_tokens")),
        UnsupportedError,
        "not listed",
    ),
    "tekken: a gap": (
        "tekken",
        rewrite("tekken.json", lambda v: v["special_tokens"].pop(1)),
        FormatError,
        "do not follow",
    ),
    "tekken: a number": (
        "tekken",
        rewrite("tekken.json", lambda v: v["vocab"].insert(0, 3)),
        FormatError,
        r"vocab\[0\]",
    ),
    "tekken: no base64": (
        "tekken",
        rewrite("tekken.json", lambda v: v["vocab"][5].update(token_bytes="?")),
        FormatError,
        r"vocab\[5\]",
    ),
    "tekken: twice": (
        "tekken",
        rewrite("tekken.json", lambda v: v["vocab"].insert(0, v["vocab"][9])),
        FormatError,
        "comes twice",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, change, error, message = BROKEN[name]
    found = refused(kind, tmp_path, change)
    assert isinstance(found, error)
    assert re.search(message, str(found)), str(found)
