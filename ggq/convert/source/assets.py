"""Which files of a checkpoint are kept whole in the result."""

from __future__ import annotations

import os
import re

from ggq.convert.source.checkpoint import CONFIG, LARGEST_CONFIG
from ggq.convert.source.folder import Folder
from ggq.convert.source.json_input import load_json
from ggq.errors import ConvertError
from ggq.format.paths import os_error
from ggq.text.template import TEMPLATES

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

LARGEST_TEMPLATE, MOST_TEMPLATES = 4 << 20, 32
"""Bytes of a named chat template, and how many of them a checkpoint may have."""
_TEMPLATE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\.jinja", re.ASCII)

LARGEST_LICENCE = 1 << 20
_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)([._-][A-Za-z0-9._-]{1,40})?", re.ASCII | re.IGNORECASE)


def read_assets(folder: Folder) -> dict[str, bytes]:
    """The bytes of the files that are kept, by name: those of ASSETS that there are, then named chat templates, then
    licences.

    Raises:
        ConvertError: One is too large, no regular file, or a link out of the folder; a template has an odd name, or
            there are too many.
        FormatError: One is no JSON though its name says so; tokenizer.json is left to `read_tokens`, as it takes long.
    """
    limits = {name: limit for name, limit in ASSETS.items() if name in folder}
    licences = sorted(name for name in folder.names if _LICENCE.fullmatch(name) and (folder.path / name).is_file())
    found = {name: folder.read(name, limit) for name, limit in limits.items()}
    found |= {name: folder.read(name, LARGEST_TEMPLATE) for name in _named_templates(folder)}
    found |= {name: folder.read(name, LARGEST_LICENCE) for name in licences}
    for name, data in found.items():
        if name.endswith(".json") and name != TOKENIZER:
            load_json(data, folder.path / name, infinite=True)
    return found


def _named_templates(folder: Folder) -> list[str]:
    """The names of the files of the folder of named chat templates, which transformers reads if it is one."""
    place = folder.path / TEMPLATES
    if TEMPLATES not in folder or not place.is_dir():
        return []
    try:
        names = sorted(name for name in os.listdir(place) if name.endswith(".jinja"))
    except OSError as error:
        raise os_error(error, os.fspath(place), "read") from None
    if len(names) > MOST_TEMPLATES:
        raise ConvertError(f"{len(names)} chat templates found, up to {MOST_TEMPLATES} allowed", path=place)
    for name in names:
        if not _TEMPLATE.fullmatch(name):
            problem = f"a chat template named {name[:80]!r}: letters, digits, '_', '-' and '.' allowed"
            raise ConvertError(problem, path=place, fix="rename the file, or take it away")
    return [f"{TEMPLATES}/{name}" for name in names]
