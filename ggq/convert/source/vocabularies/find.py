"""Which of a checkpoint's files its tokenizer is made of where it has no tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ggq.convert.source.folder import Folder
from ggq.convert.source.vocabularies.byte_level import KINDS, from_merges
from ggq.convert.source.vocabularies.sentencepiece import CLASSES, from_sentencepiece
from ggq.convert.source.vocabularies.tekken import from_tekken
from ggq.convert.source.vocabularies.wordpiece import VOCABULARY, from_vocabulary, is_wordpiece
from ggq.errors import ConvertError, UnsupportedError, one_of
from ggq.models.fields import shown

TEKKEN, TOKENS, MERGES = "tekken.json", "vocab.json", "merges.txt"
SENTENCEPIECE = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model")

FILES: tuple[str, ...] = (TEKKEN, *SENTENCEPIECE, TOKENS, MERGES, VOCABULARY)
"""Names of files that a tokenizer is made of."""

LARGEST = 64 << 20
"""Bytes of each."""

OF_MODELS = {
    "llama": "LlamaTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
"""The class of a model's tokenizer where tokenizer_config.json names none."""

PLAIN = ("", "None", "PreTrainedTokenizer", "TokenizersBackend")
"""Names of no class."""


class Made(NamedTuple):
    """A tokenizer.json that was made: its bytes, the names of the files that it is made of, the class that reads them
    ("" where it is not known)."""

    document: bytes
    files: tuple[str, ...]
    kind: str


def make_tokenizer(folder: Folder, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Made | None:
    """The tokenizer.json of a checkpoint that has none; None where no file tells what it is.

    Args:
        folder: The checkpoint's.
        settings: Its tokenizer_config.json, {} where it has none.
        config: Its config.json.

    Raises:
        GGQError: A file is not what its name says, or its class reads it in a way that is not known.
    """
    if is_wordpiece(folder, settings):
        return Made(from_vocabulary(folder, settings), (VOCABULARY,), "")
    said = str(settings.get("tokenizer_class")).removesuffix("Fast")
    kind = OF_MODELS.get(str(config.get("model_type")), "") if said in PLAIN else said
    if TEKKEN in folder:
        return Made(from_tekken(folder.read(TEKKEN, LARGEST), folder.path / TEKKEN), (TEKKEN,), "")
    model = next((name for name in SENTENCEPIECE if name in folder), None)
    if model is not None:
        if kind not in CLASSES:
            raise _unknown(kind, model, [name for name in CLASSES if name], folder)
        document = from_sentencepiece(folder.read(model, LARGEST), folder.path / model, kind, settings)
        return Made(document, (model,), kind)
    if TOKENS in folder or MERGES in folder:
        missing = next((name for name in (TOKENS, MERGES) if name not in folder), None)
        if missing is not None:
            raise ConvertError("missing: vocab.json and merges.txt belong together", path=folder.path / missing)
        if kind not in KINDS:
            raise _unknown(kind, TOKENS, KINDS, folder)
        places = folder.path / TOKENS, folder.path / MERGES
        files = folder.read(TOKENS, LARGEST), folder.read(MERGES, LARGEST)
        return Made(from_merges(*files, places, kind, settings), (TOKENS, MERGES), kind)
    if VOCABULARY in folder:
        raise _unknown(kind, VOCABULARY, ["BertTokenizer"], folder)
    return None


def _unknown(kind: str, name: str, known: Any, folder: Folder) -> UnsupportedError:
    found = f"{shown(kind)} reads it" if kind else "no class is named that reads it"
    return UnsupportedError(
        f"{found}; known are {one_of(known)}",
        path=folder.path / name,
        where="tokenizer_config.json: tokenizer_class",
        fix="make tokenizer.json with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )
