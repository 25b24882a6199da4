"""Which files of a checkpoint are kept whole in the result."""

from __future__ import annotations

import re

from ggq.convert.source.checkpoint import CONFIG, LARGEST_CONFIG
from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_json

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"

ASSETS: dict[str, int] = {
    CONFIG: LARGEST_CONFIG,
    TOKENIZER: 128 << 20,
    TOKENIZER_CONFIG: 32 << 20,
    SPECIAL_TOKENS: 4 << 20,
    ADDED_TOKENS: 4 << 20,
    GENERATION_CONFIG: 4 << 20,
    "chat_template.jinja": 4 << 20,
    "chat_template.json": 4 << 20,
    "modules.json": 1 << 20,
    "sentence_bert_config.json": 1 << 20,
    "config_sentence_transformers.json": 1 << 20,
}
"""Names of the files that are kept, and the bytes that each may have."""

LARGEST_LICENCE = 1 << 20
_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)([._-][A-Za-z0-9._-]{1,40})?", re.ASCII | re.IGNORECASE)


def read_assets(folder: Folder) -> dict[str, bytes]:
    """The bytes of the files that are kept, by name: those of ASSETS that there are, then licences.

    Raises:
        ConvertError: One is too large, no regular file, or a link out of the folder.
        FormatError: One is no JSON though its name says so; tokenizer.json is left to `read_tokens`, as it takes long.
    """
    limits = {name: limit for name, limit in ASSETS.items() if name in folder}
    licences = sorted(name for name in folder.names if _LICENCE.fullmatch(name) and (folder.path / name).is_file())
    found = {name: folder.read(name, limit) for name, limit in limits.items()}
    found |= {name: folder.read(name, LARGEST_LICENCE) for name in licences}
    for name, data in found.items():
        if name.endswith(".json") and name != TOKENIZER:
            load_json(data, folder.path / name, infinite=True)
    return found
