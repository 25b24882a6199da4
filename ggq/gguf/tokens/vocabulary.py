"""The vocabulary of a GGUF file as tokenizer.json of the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from ggq.errors import ModelError, UnsupportedError
from ggq.gguf.tokens import merged, unigram, wordpiece
from ggq.gguf.tokens.cuts import CUTS, MASKS
from ggq.models.fields import shown
from ggq.text.tokenizer_json import template

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""Types of tokens besides 1, the usual ones."""

KINDS = ("llama", "gpt2", "gemma4", "t5", "bert")
DEFAULTS = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "t5": {"eos": 1, "unknown": 2},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102},
}
"""Tokens by kind that a file need not name."""

WITHOUT_BYTES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe")
"""Ways to cut texts whose merges are of characters, a space written as in SentencePiece."""

ENDS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~[ "
    "<\uff5cend\u2581of\u2581sentence\uff5c>".split()
)
"""Control tokens that end what a model says, whether the file names them or not."""


class Vocabulary:
    """A file's tokens.

    Args:
        metadata: Of the file.
        path: The file, for messages.

    Raises:
        ModelError: The lists do not fit each other.
        UnsupportedError: A kind of tokenizer, or a way to cut texts, that is not known.
    """

    def __init__(self, metadata: Mapping[str, Any], path: str) -> None:
        self._metadata, self._path = metadata, path
        self.kind = str(metadata["tokenizer.ggml.model"])
        self.cut = str(metadata.get("tokenizer.ggml.pre", "default"))
        self.tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
        if not _is_list(self.tokens) or not self.tokens:
            raise self.refuse("no list of tokens", "tokenizer.ggml.tokens")
        types = metadata.get("tokenizer.ggml.token_type")
        if types is not None and not (isinstance(types, np.ndarray) and types.dtype.kind in "iu"):
            raise self.refuse(f"{shown(types)} found, a list of whole numbers expected", "tokenizer.ggml.token_type")
        self.types = np.ones(len(self.tokens), np.int64) if types is None else types.astype(np.int64)
        if self.types.shape != (len(self.tokens),):
            raise self.refuse(f"{len(self.types)} types of {len(self.tokens)} tokens", "tokenizer.ggml.token_type")
        if self.kind not in KINDS:
            raise UnsupportedError(
                f"tokenizer {shown(self.kind)} is not supported; supported: {', '.join(KINDS)}",
                path=path,
                where="tokenizer.ggml.model",
            )

    @property
    def bos(self) -> int | None:
        """The token that begins texts."""
        cls = self.token("cls") if self.kind == "bert" else None
        return self.token("bos") if cls is None else cls

    @property
    def ends(self) -> list[int]:
        """The tokens that end texts: those that the file names, then control tokens that are known to."""
        found = [self.token(name) for name in ("eos", "eot", "eom")]
        texts = {self.tokens[i]: i for i in np.flatnonzero(self.types == CONTROL).tolist()}
        if "<|call|>" in texts and "<|return|>" in texts or {"<|flush|>", "<|calls|>"} <= texts.keys():
            texts.pop("<|end|>", None)  # there it is between two messages of one answer
        found += sorted(number for text, number in texts.items() if text in ENDS)
        return list(dict.fromkeys(token for token in found if token is not None))

    @property
    def add_bos(self) -> bool:
        """Whether prompts begin with `bos`."""
        if self.merges_characters and self.cut != "sarvam-moe":
            return True
        known = self.kind in ("llama", "bert") or (self.kind == "gpt2" and self.cut in CUTS and CUTS[self.cut].begins)
        return self.flag("add_bos_token", known)

    @property
    def merges_characters(self) -> bool:
        """Whether merges are of characters, and not of bytes."""
        return self.kind == "gemma4" or (self.kind == "gpt2" and self.cut in WITHOUT_BYTES)

    def document(self) -> str:
        """tokenizer.json."""
        if self.kind == "llama":
            parts = merged.sentencepiece(self)
        elif self.kind == "t5":
            parts = unigram.parts(self)
        elif self.kind == "bert":
            parts = wordpiece.parts(self)
        else:
            parts = merged.characters(self) if self.merges_characters else merged.byte_level(self)
        whole = {"version": "1.0", "truncation": None, "padding": None, "post_processor": self._around()}
        return json.dumps({**whole, "added_tokens": self._added(), **parts}, ensure_ascii=False)

    def _around(self) -> dict[str, Any] | None:
        """What an encoder's texts are put between; None for models that write."""
        if self.kind not in ("bert", "t5"):
            return None
        last = self.token("seperator" if self.kind == "bert" else "eos")
        ends = self.kind == "bert" or self.flag("add_eos_token", True)
        names: dict[str, tuple[int, str]] = {}
        for name, token, wanted in (("first", self.bos, self.add_bos), ("last", last, ends)):
            if wanted and token is not None:
                names[name] = token, self.tokens[token]
        first, behind = ([name] if name in names else [] for name in ("first", "last"))
        pair = [(name, 0) for name in [*first, "A", *behind]] + [(name, 1) for name in ["B", *behind]]
        return template([*first, "A", *behind], pair, names)

    def _added(self) -> list[dict[str, Any]]:
        right, left = (
            self._rstrip(),
            self.cut in MASKS or self._metadata.get("general.architecture") == "nomic-bert-moe",
        )
        return [
            {
                "id": i,
                "content": self.tokens[i],
                "special": bool(self.types[i] != USER_DEFINED),
                "single_word": False,
                "lstrip": left and self.tokens[i] in ("<mask>", "[MASK]"),
                "rstrip": right and self.tokens[i] not in ("<unk>", "<s>", "<|endoftext|>"),
                "normalized": False,
            }
            for i in np.flatnonzero(np.isin(self.types, (UNKNOWN, CONTROL, USER_DEFINED))).tolist()
            if self.tokens[i]
        ]

    def _rstrip(self) -> bool:
        """Whether special tokens take the white space behind them: files do not say so, but by their names."""
        name = str(self._metadata.get("general.name", "")).lower()
        return self.kind == "llama" and any(each in name for each in ("phi-3", "phi3"))

    def vocabulary(self) -> dict[str, int]:
        """Ids by token; a token that comes again keeps its first id."""
        found: dict[str, int] = {}
        for number, token in enumerate(self.tokens):
            found.setdefault(token, number)
        return found

    def scores(self) -> np.ndarray:
        """float64 (tokens,)."""
        scores = self._metadata.get("tokenizer.ggml.scores", np.zeros(0))
        if not (isinstance(scores, np.ndarray) and scores.dtype.kind in "fiu"):
            raise self.refuse(f"{shown(scores)} found, a list of numbers expected", "tokenizer.ggml.scores")
        if scores.shape != (len(self.tokens),):
            raise self.refuse(f"{len(scores)} scores of {len(self.tokens)} tokens", "tokenizer.ggml.scores")
        if not np.isfinite(scores).all():
            raise self.refuse("a score that is no number", "tokenizer.ggml.scores")
        return scores.astype(np.float64)

    def merges(self) -> Sequence[str]:
        """Pairs that are merged, joined by a space, the first first."""
        merges = self._metadata.get("tokenizer.ggml.merges")
        if not _is_list(merges):
            raise self.refuse("missing", "tokenizer.ggml.merges")
        return merges

    def charsmap(self) -> bytes:
        """How SentencePiece normalizes characters; empty where it does not."""
        found = self._metadata.get("tokenizer.ggml.precompiled_charsmap", np.zeros(0, np.uint8))
        if not (isinstance(found, np.ndarray) and found.dtype.kind in "iu" and found.dtype.itemsize == 1):
            raise self.refuse(f"{shown(found)} found, a list of bytes expected", "tokenizer.ggml.precompiled_charsmap")
        data = found.tobytes()
        size = int.from_bytes(data[:4], "little")
        if data and (len(data) < 4 or size % 4 or size + 4 >= len(data) or data[-1]):
            raise self.refuse(f"a table of {size} bytes in {len(data)}", "tokenizer.ggml.precompiled_charsmap")
        return data

    def flag(self, name: str, default: bool) -> bool:
        """A key that is true or false."""
        key = f"tokenizer.ggml.{name}"
        found = self._metadata.get(key, default)
        if not isinstance(found, bool):
            raise self.refuse(f"{shown(found)} found, true or false expected", key)
        return found

    def unknown_cut(self) -> UnsupportedError:
        """What is raised for a way to cut texts that is not known."""
        known = ", ".join((*CUTS, *WITHOUT_BYTES))
        problem = f"texts are cut in the way {shown(self.cut)}, which is not known; known: {known}"
        return UnsupportedError(problem, path=self._path, where="tokenizer.ggml.pre")

    def token(self, name: str) -> int | None:
        """The id of a named token; None where there is none."""
        key = f"tokenizer.ggml.{name}_token_id"
        found = self._metadata.get(key)
        if found is None:
            usual = DEFAULTS.get(self.kind, {}).get(name)
            return usual if usual is not None and usual < len(self.tokens) else None
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < len(self.tokens):
            raise self.refuse(f"{shown(found)} found, token ids are 0 to {len(self.tokens) - 1}", key)
        return found

    def refuse(self, problem: str, where: str) -> ModelError:
        """What is raised for a broken list or key."""
        return ModelError(problem, path=self._path, where=where)


def _is_list(found: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is an array of strings."""
    return isinstance(found, Sequence) and not isinstance(found, str)
