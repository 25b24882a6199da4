"""tokenizer.json of the tokenizers library as the vocabulary of a GGUF file, where that says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ggq.errors import UnsupportedError
from ggq.gguf.tokens.cuts import CUTS, GPT2
from ggq.gguf.tokens.merged import merges_of
from ggq.gguf.tokens.vocabulary import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED

KEY = "tokenizer.ggml."
SPACE = "\u2581"


def vocabulary_keys(document: bytes, size: int, path: str) -> dict[str, Any]:
    """The keys of a vocabulary.

    Args:
        document: tokenizer.json.
        size: Rows of the embedding: tokens that the document does not have are unused ones.
        path: The model's file, for messages.

    Raises:
        UnsupportedError: A tokenizer that a GGUF file cannot describe, or that is read otherwise there.
    """
    found = json.loads(document)
    model = found.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise _refusal(f"tokenizers of the kind {model.get('type')!r:.40}", path)
    tokens, types = _tokens(found, size, path)
    if model.get("byte_fallback"):
        keys = _sentencepiece(found, tokens, types, path)
    else:
        merges = [" ".join(merge) for merge in _merges(model)]
        keys = {"model": "gpt2", "pre": _cut(found, path), "merges": merges}
    listed = {"tokens": tokens, "token_type": types}
    return {KEY + key: value for key, value in {**keys, **listed}.items()}


def special_keys(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of special tokens and of the chat template.

    Args:
        metadata: Of a .ggq file.
        config: tokenizer_config.json.
    """
    found: dict[str, Any] = {}
    if "tokenizer.bos_id" in metadata:
        found["bos_token_id"] = int(metadata["tokenizer.bos_id"])
    ends = [int(token) for token in metadata.get("tokenizer.eos_ids", ())]
    for name, token in zip(("eos", "eot", "eom"), ends):
        found[f"{name}_token_id"] = token
    found["add_bos_token"] = bool(metadata.get("tokenizer.add_bos", False))
    keys = {KEY + key: value for key, value in found.items()}
    if isinstance(config.get("chat_template"), str):
        keys["tokenizer.chat_template"] = config["chat_template"]
    return keys


def _refusal(what: str, path: str) -> UnsupportedError:
    return UnsupportedError(f"{what} cannot be written to a GGUF file", path=path, where="tokenizer.json")


def _tokens(found: Mapping[str, Any], size: int, path: str) -> tuple[list[str], np.ndarray]:
    """Tokens by id, and their types."""
    model = found["model"]
    places = dict(model["vocab"])
    added = {item["id"]: item for item in found.get("added_tokens", ())}
    places |= {item["content"]: number for number, item in added.items()}
    if places and max(places.values()) >= size:
        raise _refusal(f"a token of id {max(places.values())}, the embedding has {size} rows,", path)
    tokens, types = [f"[PAD{number}]" for number in range(size)], np.full(size, UNUSED, np.int32)
    for token, number in places.items():
        tokens[number] = token
        types[number] = 1
        if model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = BYTE
        elif number in added:
            types[number] = CONTROL if added[number].get("special") else USER_DEFINED
    if model.get("byte_fallback") and model.get("unk_token") in places:
        types[places[model["unk_token"]]] = UNKNOWN
    return tokens, types


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs that are merged; older files join them by a space."""
    return [tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in model["merges"]]  # type: ignore[misc]


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[inner]) if part.get("type") == "Sequence" else [part]


def _cut(found: Mapping[str, Any], path: str) -> str:
    """The name of the way in which texts are cut into words."""
    steps: list[Any] = []
    for step in _steps(found.get("pre_tokenizer"), "pretokenizers"):
        kind = step.get("type")
        if kind == "ByteLevel":
            if step.get("add_prefix_space"):
                raise _refusal("a space before each text", path)
            steps += [GPT2] if step.get("use_regex", True) else []
        elif kind == "Split" and "Regex" in step.get("pattern", {}) and not step.get("invert"):
            steps.append(step["pattern"]["Regex"])
        else:
            steps.append({"type": kind, "individual_digits": step.get("individual_digits")})
    normal = [step.get("type") for step in _steps(found.get("normalizer"), "normalizers")]
    same = [
        name
        for name, cut in CUTS.items()
        if steps == list(cut.steps) and normal == ([cut.normal] if cut.normal else []) and name != "default"
    ]
    whole = bool(found["model"].get("ignore_merges"))
    for name in [*(name for name in same if CUTS[name].whole == whole), *same]:
        return name
    raise _refusal("this way to cut texts into words", path)


def _sentencepiece(found: Mapping[str, Any], tokens: list[str], types: np.ndarray, path: str) -> dict[str, Any]:
    """Scores from the order of merges; refused where scores would merge otherwise."""
    model, merges = found["model"], _merges(found["model"])
    scores = np.zeros(len(tokens), np.float32)
    scores[types == 1] = -1e6
    first: dict[str, int] = {}
    for left, right in merges:
        first.setdefault(left + right, len(first))
    places = {token: number for number, token in enumerate(tokens)}
    for token, rank in first.items():
        scores[places[token]] = -rank
    known = [pair for pair in merges if types[places["".join(pair)]] in (1, UNUSED)]
    plain = np.where(types == USER_DEFINED, CONTROL, types)  # those are found before anything is merged
    ranks = [first[left + right] for left, right in known]
    if ranks != sorted(ranks) or set(known) != set(merges_of(tokens, scores, plain, places)):
        raise _refusal("merges that no scores of tokens stand for", path)
    prefix = any(step.get("type") == "Prepend" for step in _steps(found.get("normalizer"), "normalizers"))
    for step in _steps(found.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            prefix = step.get("prepend_scheme", "always") != "never"
        elif step.get("type") != "Split" or step.get("pattern") not in ({"String": " "}, {"String": SPACE}):
            raise _refusal(f"the step {step.get('type')!r:.40}", path)
    keys: dict[str, Any] = {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefix}
    if model.get("unk_token") in places:
        keys["unknown_token_id"] = places[model["unk_token"]]
    return keys
