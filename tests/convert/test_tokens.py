"""Which tokens begin and end a model's texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggq.convert.source.assets import read_assets
from ggq.convert.source.folder import Folder
from ggq.convert.source.tokens import Tokens, read_tokens
from tests.kit.checkpoints import edit_json
from tests.kit.support import DEMO, shared


def found(path: Path, vocabulary: int = 320) -> Tokens:
    folder = Folder(path)
    return read_tokens(folder, read_assets(folder), vocabulary, [])


def edit_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_real_models() -> None:
    assert found(DEMO, 1024) == Tokens(bos=0, eos=(0,), add_bos=False)
    assert found(shared("models", "stories260k"), 512) == Tokens(bos=1, eos=(2,), add_bos=True)


def test_the_ends_of_all_three_files_are_joined_in_order(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=[7, 5])
    edit_json(folder / "config.json", eos_token_id=5)
    edit_json(folder / "tokenizer_config.json", eos_token={"content": "<|pad|>", "special": True})
    assert found(folder).eos == (7, 5, 2)


def test_without_special_tokens_there_are_none(folder: Path) -> None:
    for name in ("generation_config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    edit_json(folder / "config.json", bos_token_id=None, eos_token_id=None)
    edit_tokenizer(folder, post_processor=None)
    assert found(folder) == Tokens(bos=None, eos=(), add_bos=False)


def template(*pieces: str) -> dict[str, Any]:
    parts = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece == "A" else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in pieces
    ]
    numbers = {"<|begin|>": 0, "<|end|>": 1, "<|pad|>": 2}
    known = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in numbers.items()}
    return {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": known}


@pytest.mark.parametrize(
    "pieces, setting, expected",
    [
        (["A"], None, False),
        (["<|begin|>", "A"], None, True),
        (["<|begin|>", "A"], False, True),
        (["A"], True, False),
        (["<|begin|>", "A", "<|end|>"], None, None),
        (["<|pad|>", "<|begin|>", "A"], None, None),
        (["<|pad|>", "A"], None, None),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else str(value),
)
def test_add_bos_is_what_the_tokenizer_does_whatever_its_config_says(
    folder: Path, pieces: list[str], setting: bool | None, expected: bool | None
) -> None:
    """S-6: transformers 5 does not read add_bos_token where there is a tokenizer.json."""
    edit_tokenizer(folder, post_processor=template(*pieces))
    edit_json(folder / "tokenizer_config.json", add_bos_token=setting)
    assert found(folder).add_bos is expected
    assert found(folder).bos == 0


def test_a_first_token_that_only_the_tokenizer_knows(folder: Path) -> None:
    edit_tokenizer(folder, post_processor=template("<|pad|>", "A"))
    edit_json(folder / "tokenizer_config.json", bos_token=None)
    for name in ("generation_config.json", "config.json"):
        edit_json(folder / name, bos_token_id=None)
    assert (found(folder).bos, found(folder).add_bos) == (2, True)
