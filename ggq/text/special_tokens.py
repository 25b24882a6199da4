"""The tokens that have names: what begins a text, what ends one, what fills, and a model's own (S-15, S-16)."""

from __future__ import annotations

from collections.abc import Mapping

STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names that every tokenizer of transformers has."""

_ROBERTA = {f"{name}_token": f"<{name}>" for name in ("unk", "pad", "mask")}
_ROBERTA |= {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}

CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "GemmaTokenizer": {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "mask")},
    "RobertaTokenizer": _ROBERTA,
    "XLMRobertaTokenizer": _ROBERTA,
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}
"""Tokens that a class of transformers has where no file names others."""


def token_text(value: object) -> str | None:
    """A special token as tokenizer_config.json writes it: a string, or an object with its "content"."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def reads_side_files(settings: Mapping[str, object]) -> bool:
    """Whether special_tokens_map.json and added_tokens.json count: not where tokenizer_config.json lists the tokens."""
    return "added_tokens_decoder" not in settings


def named_values(settings: Mapping[str, object], special: Mapping[str, object]) -> dict[str, object]:
    """The named special tokens as their file has them: strings or objects.

    Args:
        settings: tokenizer_config.json.
        special: special_tokens_map.json, which wins where it is read at all.
    """
    kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
    found: dict[str, object] = dict(CLASS_DEFAULTS.get(kind, {}))
    for file in (settings, special) if reads_side_files(settings) else (settings,):
        more = file.get("extra_special_tokens")
        values = {**(more if isinstance(more, Mapping) else {}), **file}
        for name, value in values.items():
            if name in STANDARD and name in file and value is None:
                found.pop(name, None)
            elif isinstance(name, str) and name.endswith("_token") and token_text(value) is not None:
                found[name] = value
            elif isinstance(more, Mapping) and name in more and token_text(value) is not None:
                found[name] = value
    return found


def named_tokens(settings: Mapping[str, object], special: Mapping[str, object]) -> dict[str, str]:
    """The texts of the named special tokens, by name; arguments as for `named_values`."""
    values = named_values(settings, special)
    return {name: text for name, value in values.items() if (text := token_text(value)) is not None}
