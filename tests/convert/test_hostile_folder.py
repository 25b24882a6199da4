"""Folders that lack files, hold others or lead out of themselves: refused, and nothing outside of them is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ggq
from ggq.cli.texts.conversation import chosen_template
from ggq.convert.convert import convert, plan
from ggq.errors import ConvertError, FormatError, GGQError
from ggq.export.export import export as ggq_export
from tests.kit.checkpoints import UP, refused, replace_tensors, tiny


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny(tmp_path / "m", shards=3)


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    value = json.loads(path.read_text())
    change(value["weight_map"])
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "shard, shown",
    [
        ("../model-00001-of-00003.safetensors", "'../model"),
        ("/etc/passwd", "'/etc/passwd'"),
        ("C:\\x.safetensors", "'C:"),
        ("sub/model.safetensors", "'sub/"),
        ("", "''"),
        ("model.bin", "'model.bin'"),
        ("model\0.safetensors", r"'model\\x00"),
        ("x.safetensors\n", r"'x.safetensors\\n'"),
        (5, "5"),
        (["model.safetensors"], "a list of 1"),
    ],
)
def test_shard_names_that_leave_the_folder(sharded: Path, shard: Any, shown: str) -> None:
    edit_index(sharded, lambda places: places.update({UP: shard}))
    refused(
        sharded,
        f"weight_map: '{UP}': the name of a safetensors file in this folder expected, found {shown}",
        FormatError,
    )


def test_shards_missing_extra_or_at_odds_with_the_index(sharded: Path) -> None:
    second = sharded / "model-00002-of-00003.safetensors"
    data = second.read_bytes()
    second.unlink()
    refused(
        sharded, "1 of 3 files of the index are missing, the first is model-00002-of-00003.safetensors", ConvertError
    )
    second.write_bytes(data)
    extra = sharded / "model-00004-of-00004.safetensors"
    extra.write_bytes(data)
    refused(sharded, f"{extra.name}: not in model.safetensors.index.json", ConvertError)
    extra.unlink()
    replace_tensors(second, {"model.embed_tokens.weight": np.zeros((320, 32), np.float32)})
    refused(sharded, "tensor 'model.embed_tokens.weight': in model-00001.* and in model-00002", ConvertError)
    second.write_bytes(data)
    replace_tensors(second, {UP: None})
    refused(sharded, f"1 of 2[0-9] tensors missing: '{UP}'", ConvertError)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": "x"}'])
def test_an_index_without_a_map(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(sharded, "weight_map: an object of tensor names and file names expected", FormatError)


def test_single_file_and_index_together(sharded: Path) -> None:
    (sharded / "model.safetensors").write_bytes(b"")
    refused(sharded, "model.safetensors and model.safetensors.index.json both found", ConvertError)


@pytest.mark.parametrize(
    "name, message",
    [
        ("pytorch_model.bin", "only pickled weights found \\('pytorch_model.bin'\\), which can run code"),
        ("model.pt", "only pickled weights found"),
        ("model-q4.gguf", "only a GGUF file found"),
        ("adapter_model.safetensors", "an adapter \\(LoRA\\) found"),
        ("weights.safetensors", "neither model.safetensors nor .*; found 'weights.safetensors' without"),
        ("notes.txt", "neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_folders_without_weights_say_what_they_hold_instead(folder: Path, name: str, message: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    error = refused(folder, message, ConvertError)
    assert error.fix


def test_folders_that_are_none(tmp_path: Path, folder: Path) -> None:
    for source, message in [
        (tmp_path / "nowhere", "no such folder"),
        (folder / "model.safetensors", "a folder with config.json and safetensors files expected, found a file"),
        (tmp_path / "a\0b", "found a NUL"),
    ]:
        with pytest.raises(GGQError, match=message):
            convert(source, tmp_path / "out.ggq")
    (folder / "config.json").unlink()
    refused(folder, "config.json: missing: not a Hugging Face checkpoint", ConvertError)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(GGQError, match="loop: cannot read"):
        convert(tmp_path / "loop", tmp_path / "out.ggq")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "LICENSE"])
def test_links_out_of_the_folder_are_refused_and_links_inside_are_not(folder: Path, name: str) -> None:
    if name == "LICENSE":
        (folder / name).write_text("free")
    data = (folder / name).read_bytes()
    inside, outside = folder / "real", folder.parent / "secret"
    for place in (inside, outside):
        place.write_bytes(data)
    (folder / name).unlink()
    (folder / name).symlink_to(inside)
    plan(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../secret")
    refused(folder, f"{name}: a symbolic link out of the folder", ConvertError)
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    if name != "LICENSE":  # which may be anything, and is left out then
        refused(folder, f"{name}: cannot open", GGQError)


def test_the_hub_caches_own_links_are_followed_and_no_others(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--org--name"
    snapshot = tiny(cache / "snapshots" / "0123abcd")
    (cache / "blobs").mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(cache / "blobs" / f"b-{path.name}")
        path.symlink_to(f"../../blobs/b-{path.name}")
    shared = tmp_path / "hub" / "blobs" / "ab" / "abcd"  # one store for all models, as newer clients keep it
    shared.parent.mkdir(parents=True)
    weights = cache / "blobs" / "b-model.safetensors"
    weights.rename(shared)
    weights.symlink_to("../../blobs/ab/abcd")
    assert len(plan(snapshot).tensors) == 20
    other = tmp_path / "hub" / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    shared.rename(other / "abcd")
    weights.unlink()
    weights.symlink_to("../../models--org--other/blobs/abcd")
    with pytest.raises(ConvertError, match="model.safetensors: a symbolic link out of the folder"):
        plan(snapshot)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_what_is_no_regular_file_is_never_opened(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, f"{name}: a file expected, found a directory", ConvertError)
    (folder / name).rmdir()
    os.mkfifo(folder / name)  # opening it would wait for ever
    refused(folder, f"{name}: a file expected, found a FIFO", ConvertError)


@pytest.mark.parametrize("name, limit", [("config.json", 4 << 20), ("tokenizer.json", 128 << 20), ("LICENSE", 1 << 20)])
def test_files_that_are_too_large_are_not_read(folder: Path, name: str, limit: int) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(limit + 1)
    refused(folder, f"{name}: {limit + 1} bytes found, up to {limit} allowed", ConvertError)


def test_an_unreadable_file_is_named(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "model.safetensors").chmod(0)
    refused(folder, "model.safetensors: cannot read: Permission denied", GGQError)


def test_named_chat_templates_are_kept(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("plain {{ messages[0]['content'] }}")
    named = folder / "additional_chat_templates"
    named.mkdir()
    (named / "tool_use.jinja").write_text("with {{ tools | length }} tools")
    (named / "notes.txt").write_text("no template")
    convert(folder, tmp_path / "m.ggq", scheme="q4-g32")
    with ggq.load(tmp_path / "m.ggq", interpreter="numpy") as model:
        assert "additional_chat_templates/notes.txt" not in model.reader.assets
        template, asked = model.chat_template, [{"role": "user", "content": "hi"}]
        assert template.render(asked) == "plain hi" and template.render(asked, tools=[{}, {}]) == "with 2 tools"
        assert chosen_template(model, "tool_use").source == "with {{ tools | length }} tools"
    ggq_export(tmp_path / "m.ggq", tmp_path / "back")
    assert (tmp_path / "back" / "additional_chat_templates" / "tool_use.jinja").read_text().startswith("with")


def test_named_chat_templates_of_strangers(tmp_path: Path) -> None:
    """Links out, odd names, too many, too large, no file: refused by name, and a file of the folder's name is none."""
    folder = tiny(tmp_path / "m")
    named = folder / "additional_chat_templates"
    named.write_text("a file")
    plan(folder, scheme="q4-g32")
    named.unlink()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jinja").write_text("secret")
    named.symlink_to(outside)
    refused(folder, "a symbolic link out of the folder", ConvertError)
    named.unlink()
    named.mkdir()
    for make, problem in (
        (lambda place: (place / "x.jinja").symlink_to(outside / "secret.jinja"), "a symbolic link out of the folder"),
        (lambda place: (place / "a b.jinja").write_text(""), "a chat template named 'a b.jinja': letters"),
        (lambda place: (place / "x.jinja").mkdir(), "a file expected, found a directory"),
        (lambda place: (place / "x.jinja").write_bytes(bytes((4 << 20) + 1)), "4194305 bytes found, up to 4194304"),
        (lambda place: [(place / f"{i}.jinja").write_text("") for i in range(33)], "33 chat templates found, up to 32"),
    ):
        make(named)
        refused(folder, problem, ConvertError)
        for each in named.iterdir():
            each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
