"""The vocabulary of a GGUF file as tokenizer.json of the tokenizers library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from ggq.errors import ModelError, UnsupportedError
from ggq.models.fields import shown
from ggq.text.tokenizer_json import SPACE, bpe, byte_level, replace, sequence, split, strip_left

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""Types of tokens besides 1, the usual ones."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

DIGITS = {"type": "Digits", "individual_digits": True}

SPLITS: dict[str, list[Any]] = {
    "gpt-2": [GPT2],
    "llama-bpe": [LLAMA3],
    "llama3": [LLAMA3],
    "llama-v3": [LLAMA3],
    "qwen2": [QWEN2],
    "smollm": [DIGITS, GPT2],
    "starcoder": [DIGITS, GPT2],
}
"""How texts are cut into words before merges, by "tokenizer.ggml.pre": regular expressions and steps of the library."""

BEGINS = ("llama-bpe", "llama3", "llama-v3")
"""Of these a text begins with its first token where the file says nothing."""


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
            raise self._refuse("no list of tokens", "tokenizer.ggml.tokens")
        types = metadata.get("tokenizer.ggml.token_type")
        if types is not None and not (isinstance(types, np.ndarray) and types.dtype.kind in "iu"):
            raise self._refuse(f"{shown(types)} found, a list of whole numbers expected", "tokenizer.ggml.token_type")
        self.types = np.ones(len(self.tokens), np.int64) if types is None else types.astype(np.int64)
        if self.types.shape != (len(self.tokens),):
            raise self._refuse(f"{len(self.types)} types of {len(self.tokens)} tokens", "tokenizer.ggml.token_type")
        if self.kind not in ("llama", "gpt2"):
            raise UnsupportedError(
                f"tokenizer {shown(self.kind)} is not supported; supported: llama, gpt2",
                path=path,
                where="tokenizer.ggml.model",
            )

    @property
    def bos(self) -> int | None:
        """The token that begins texts."""
        return self._token("bos")

    @property
    def ends(self) -> list[int]:
        """The tokens that end texts."""
        found = [self._token(name) for name in ("eos", "eot", "eom")]
        return list(dict.fromkeys(token for token in found if token is not None))

    @property
    def add_bos(self) -> bool:
        """Whether prompts begin with `bos`."""
        said = self._metadata.get("tokenizer.ggml.add_bos_token")
        return bool(said) if said is not None else self.kind == "llama" or self.cut in BEGINS

    def document(self) -> str:
        """tokenizer.json."""
        parts = self._sentencepiece() if self.kind == "llama" else self._byte_level()
        whole = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
        return json.dumps({**whole, "added_tokens": self._added(), **parts}, ensure_ascii=False)

    def _added(self) -> list[dict[str, Any]]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": i, "content": self.tokens[i], "special": bool(self.types[i] != USER_DEFINED), **flags}
            for i in np.flatnonzero(np.isin(self.types, (UNKNOWN, CONTROL, USER_DEFINED))).tolist()
            if self.tokens[i]
        ]

    def _vocabulary(self) -> dict[str, int]:
        """Ids by token; a token that comes again keeps its first id."""
        found: dict[str, int] = {}
        for number, token in enumerate(self.tokens):
            found.setdefault(token, number)
        return found

    def _sentencepiece(self) -> dict[str, Any]:
        """SentencePiece's merges: of the neighbours that make a token, those of the highest score first."""
        scores = self._metadata.get("tokenizer.ggml.scores", np.zeros(0))
        if not (isinstance(scores, np.ndarray) and scores.dtype.kind in "fiu"):
            raise self._refuse(f"{shown(scores)} found, a list of numbers expected", "tokenizer.ggml.scores")
        scores = scores.astype(np.float64)
        if scores.shape != (len(self.tokens),):
            raise self._refuse(f"{len(scores)} scores of {len(self.tokens)} tokens", "tokenizer.ggml.scores")
        vocabulary = self._vocabulary()
        prefix = self._metadata.get("tokenizer.ggml.add_space_prefix", True) is True
        unknown = self._token("unknown")
        before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
        strip = [strip_left()] if prefix else []
        return {
            "normalizer": sequence("normalizers", [*before, replace(" ", SPACE)]),
            "pre_tokenizer": None,
            "decoder": sequence("decoders", [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]),
            "model": bpe(
                vocabulary,
                merges_of(self.tokens, scores, self.types, vocabulary),
                unk_token=None if unknown is None else self.tokens[unknown],
                fuse_unk=True,
                byte_fallback=True,
            ),
        }

    def _byte_level(self) -> dict[str, Any]:
        if self.cut not in SPLITS:
            known = ", ".join(SPLITS)
            problem = f"texts are cut in the way {shown(self.cut)}, which is not known; known: {known}"
            raise UnsupportedError(problem, path=self._path, where="tokenizer.ggml.pre")
        merges = self._metadata.get("tokenizer.ggml.merges")
        if not _is_list(merges):
            raise self._refuse("missing", "tokenizer.ggml.merges")
        steps = [split(step) if isinstance(step, str) else step for step in SPLITS[self.cut]]
        return {
            "normalizer": {"type": "NFC"} if self.cut == "qwen2" else None,
            "pre_tokenizer": sequence("pretokenizers", [*steps, byte_level(regex=False)]),
            "decoder": byte_level(prefix=True),
            "model": bpe(self._vocabulary(), list(merges), ignore_merges=self.cut in BEGINS),
        }

    def _token(self, name: str) -> int | None:
        """The id of a named token; None where there is none."""
        key = f"tokenizer.ggml.{name}_token_id"
        found = self._metadata.get(key)
        if found is None:
            return None
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < len(self.tokens):
            raise self._refuse(f"{shown(found)} found, token ids are 0 to {len(self.tokens) - 1}", key)
        return found

    def _refuse(self, problem: str, where: str) -> ModelError:
        return ModelError(problem, path=self._path, where=where)


def _is_list(found: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is an array of strings."""
    return isinstance(found, Sequence) and not isinstance(found, str)


def merges_of(
    tokens: Sequence[str], scores: np.ndarray, types: np.ndarray, vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Merges that do what SentencePiece does with scores: for each token all pairs of tokens that make it.

    Args:
        tokens: By id.
        scores: float64 (tokens,); the highest is merged first.
        types: int (tokens,); only usual, user-defined and unused tokens are made of others.
        vocabulary: Ids by token.
    """
    found: list[tuple[float, int, str, str]] = []
    for number in np.flatnonzero(np.isin(types, (1, USER_DEFINED, UNUSED))).tolist():
        token, score = tokens[number], -float(scores[number])
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((score, number, left, right))
    found.sort(key=lambda each: each[:2])
    return [(left, right) for _, _, left, right in found]
