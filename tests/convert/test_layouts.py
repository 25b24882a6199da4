"""Checkpoints that mean the same under other names, in other files, with things left in: converted to the same numbers.

Rules S-8 to S-13 of docs/sources.md. What would make another model is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ggq
from ggq.convert.convert import convert, plan
from ggq.convert.write.report import Report
from ggq.errors import ConvertError, UsageError
from tests.kit.checkpoints import UP, edit_json, numbers, read_safetensors, refused, replace_tensors, tiny
from tests.kit.checkpoints import write_safetensors as write
from tests.kit.support import run_ggq

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def convert_exact(source: Path, **options: Any) -> tuple[Report, dict[str, NDArray[np.float32]]]:
    """A conversion that loses nothing, and its tensors."""
    out = source.parent / f"{source.name}.ggq"
    report = convert(source, out, scheme="f32", embedding="f32", force=True, **options)
    with ggq.open(out) as file:
        return report, {name: tensor.dequantize() for name, tensor in file.tensors.items()}


@pytest.fixture
def same(folder: Path) -> Callable[..., Report]:
    """Convert, and hold the tensors against those of the checkpoint as it was."""
    _, expected = convert_exact(folder)

    def check(source: Path = folder, **options: Any) -> Report:
        report, found = convert_exact(source, **options)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor)
        return report

    return check


def rename_tensors(folder: Path, change: Callable[[str], str]) -> None:
    header, data = read_safetensors(folder / SINGLE)
    header.pop("__metadata__", None)
    write(folder / SINGLE, {change(name): entry for name, entry in header.items()}, data)


# --- names (S-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("model."),
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("layers.0.", "layers.0._orig_mod.").replace("layers.1.", "layers.1._orig_mod."),
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_forward_module.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: name.replace("model.layers.1", "model.layers.1._fsdp_wrapped_module"),
        lambda name: name.replace("_proj.", "_proj.base_layer."),
        lambda name: f"language_model.{name}",
        lambda name: f"_orig_mod.{name.removeprefix('model.')}",
    ],
)
def test_other_names_of_the_same_tensors(
    folder: Path, same: Callable[..., Report], change: Callable[[str], str]
) -> None:
    rename_tensors(folder, change)
    assert "tensors have other names than the architecture's" in same().notes[0]


def test_a_base_model_named_as_such(folder: Path, same: Callable[..., Report]) -> None:
    rename_tensors(folder, lambda name: name.removeprefix("model."))
    edit_json(folder / "config.json", architectures=["LlamaModel"])
    same()


def test_two_tensors_of_one_name_are_refused(folder: Path) -> None:
    rename_tensors(folder, lambda name: f"module.{name}" if "layers" in name else name)
    replace_tensors(folder / SINGLE, {f"_orig_mod.{EMBEDDING}": np.ones((320, 32), np.float32)})
    refused(folder, f"'{EMBEDDING}' and '_orig_mod.{EMBEDDING}' are both '{EMBEDDING}'", ConvertError)


# --- files (S-8)


def index(folder: Path, places: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_a_single_file_with_an_index(folder: Path, same: Callable[..., Report]) -> None:
    index(folder, dict.fromkeys(read_safetensors(folder / SINGLE)[0], SINGLE))
    assert same().notes == ()


def test_a_single_file_with_the_index_of_the_shards_that_it_was_made_of(
    folder: Path, same: Callable[..., Report]
) -> None:
    index(folder, {EMBEDDING: "model-00001-of-00002.safetensors", UP: "model-00002-of-00002.safetensors"})
    assert same().notes == ("model.safetensors.index.json is of another split: none of its files is here",)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("listed", [1, 2, 5])
def test_an_index_of_another_split(folder: Path, same: Callable[..., Report], count: int, listed: int) -> None:
    sharded = tiny(folder.parent / "sharded", shards=count)
    names = [f"model-{i + 1:05}-of-{listed:05}.safetensors" for i in range(listed)]
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    index(sharded, {name: names[i % listed] for i, name in enumerate(places)})
    assert any(INDEX in note for note in same(sharded).notes)


def test_an_index_that_puts_tensors_elsewhere_lacks_some_and_has_others(
    folder: Path, same: Callable[..., Report]
) -> None:
    sharded = tiny(folder.parent / "sharded", shards=2)
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    places |= {UP: "model-00002-of-00002.safetensors", EMBEDDING: "model-00002-of-00002.safetensors"}
    places |= {HEAD: "model-00002-of-00002.safetensors"}  # tied, so it need not be there
    del places["model.norm.weight"]
    index(sharded, places)
    assert "puts 1 of" in same(sharded).notes[0] or "puts 2 of" in same(sharded).notes[0]


def test_a_shard_of_another_version_is_refused(folder: Path) -> None:
    sharded = tiny(folder.parent / "sharded", shards=2)
    (sharded / "model-00003-of-00003.safetensors").write_bytes((folder / SINGLE).read_bytes())
    refused(sharded, "model-00003-of-00003.safetensors: not in model.safetensors.index.json", ConvertError)


# --- tied or not (S-10, S-11)


def test_a_tied_model_with_another_output_keeps_it(folder: Path) -> None:
    head = np.random.default_rng(1).normal(size=(320, 32)).astype(np.float32)
    replace_tensors(folder / SINGLE, {HEAD: head})
    report, found = convert_exact(folder)
    np.testing.assert_array_equal(found[HEAD], head)
    assert "ties the output to the embedding, but lm_head.weight has other numbers: kept, untied" in report.notes[0]


def test_one_number_makes_another_output(folder: Path) -> None:
    head = numbers(folder / SINGLE, EMBEDDING)
    head[319, 31] += 1
    replace_tensors(folder / SINGLE, {HEAD: head})
    assert HEAD in convert_exact(folder)[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_tied_model_with_the_same_output_leaves_it_out(folder: Path, dtype: Any) -> None:
    embedding = numbers(folder / SINGLE, EMBEDDING).astype(np.float16)
    replace_tensors(folder / SINGLE, {EMBEDDING: embedding, HEAD: embedding.astype(dtype)})
    report, found = convert_exact(folder)
    assert report.ignored == (HEAD,) and HEAD not in found


def test_a_tied_model_that_stores_the_output_alone(folder: Path, same: Callable[..., Report]) -> None:
    rename_tensors(folder, lambda name: HEAD if name == EMBEDDING else name)
    assert same().notes == (f"tied, and only {HEAD} is stored: it is the embedding too",)


# --- biases (S-12)


@pytest.mark.parametrize("stored", ["", "q", "qv", "qkv", "qkvo"])
def test_biases_that_are_said_but_not_stored_are_zeros(folder: Path, stored: str) -> None:
    edit_json(folder / "config.json", attention_bias=True)
    ones = {"q": 32, "k": 16, "v": 16, "o": 32}
    names = {f"model.layers.{i}.self_attn.{k}_proj.bias": (k, size) for i in range(2) for k, size in ones.items()}
    there = {name: np.full(size, 0.5, np.float32) for name, (k, size) in names.items() if k in stored}
    replace_tensors(folder / SINGLE, there)
    report, found = convert_exact(folder)
    for name, (kind, size) in names.items():
        np.testing.assert_array_equal(found[name], np.full(size, 0.5 if kind in stored else 0, np.float32))
    assert bool(report.notes) == (stored != "qkvo")


# --- leftovers (S-13)


@pytest.mark.parametrize(
    "name",
    [
        *("v_head.summary.weight", "v_head.summary.bias", "score.weight", "model.rotary_emb.inv_freq", "rope.freqs"),
        *("model.layers.1.self_attn.rotary_emb.cos_cached", "model.layers.0.self_attn.k_scale", "position_ids"),
        *("mtp.layers.0.norm.weight", "value_head.norm.weight", "model.mm_projector.0.weight", "reward.bias"),
        *("model.layers.0.self_attn.attn.bias", "masked_bias", "vision_tower.norm.weight"),
    ],
)
def test_what_nothing_reads_is_left_out(folder: Path, same: Callable[..., Report], name: str) -> None:
    replace_tensors(folder / SINGLE, {name: np.ones((1, 8), np.float32)})
    assert same().ignored == (name,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.0.self_attn.bias_buffer", np.zeros((0, 4), np.float32)),
        ("model.layers.0.self_attn.q_proj.bias", np.zeros(32, np.float32)),
        ("model.layers.0.self_attn.q_proj.bias", np.full(32, -0.0, np.float32)),
        ("lm_head.bias", np.zeros(320, np.float16)),
        ("model.layers.0.mask", np.ones(4, np.int64)),
    ],
)
def test_what_is_zero_inside_of_the_model_is_left_out(
    folder: Path, same: Callable[..., Report], name: str, value: NDArray[Any]
) -> None:
    replace_tensors(folder / SINGLE, {name: value})
    assert same().ignored == (name,)


@pytest.mark.parametrize(
    "name",
    [
        *("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight", "lm_head.bias"),
        *("model.layers.0.post_feedforward_layernorm.weight", "model.norm.bias", "model.embed_positions.weight"),
        *("model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.sinks", "model.embed_norm.weight"),
        *("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.mlp.router.weight"),
    ],
)
def test_what_would_change_the_model_is_refused_unless_told(
    folder: Path, same: Callable[..., Report], name: str
) -> None:
    replace_tensors(folder / SINGLE, {name: np.full((4,), 1e-3, np.float16)})
    refused(folder, f"1 tensors that the architecture does not have, and that would change it: '{name}'", ConvertError)
    assert same(ignore=[name]).ignored == (name,)


def test_tensors_to_ignore_are_named_by_regular_expressions(folder: Path, same: Callable[..., Report]) -> None:
    names = [f"model.layers.{i}.self_attn.{part}_norm.weight" for i in range(2) for part in "qk"]
    replace_tensors(folder / SINGLE, {name: np.ones(8, np.float32) for name in names})
    assert sorted(same(ignore=[r"model\.layers\.\d+\.self_attn\.[qk]_norm\..*"]).ignored) == sorted(names)
    with pytest.raises(UsageError, match="--ignore q_norm: no tensor's whole name matches"):
        plan(folder, ignore=["q_norm"])
    with pytest.raises(UsageError, match="--ignore \\(: not a regular expression"):
        plan(folder, ignore=["("])
    out = folder.parent / "cli.ggq"
    done = run_ggq("convert", folder, out, "--scheme", "q4-g32", "--ignore", ".*_norm.weight")
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout and "q_norm.weight and 3 more: nothing reads them" in done.stdout.replace(
        "k_", "q_"
    )


# --- links


def test_files_on_another_disk_are_read_where_that_is_asked_for(folder: Path, same: Callable[..., Report]) -> None:
    store = folder.parent / "store"
    store.mkdir()
    (folder / SINGLE).rename(store / "blob")
    (folder / SINGLE).symlink_to(store / "blob")
    refused(folder, "a symbolic link out of the folder, .*\n--follow-links allows it", ConvertError)
    same(follow_links=True)
    done = run_ggq("convert", folder, folder.parent / "cli.ggq", "--scheme", "q4-g32", "--follow-links")
    assert done.returncode == 0, done.stderr


def test_links_to_files_of_the_same_name_are_followed(folder: Path, same: Callable[..., Report]) -> None:
    """A folder of links to another disk, as `hf download --local-dir` made them."""
    links = folder.parent / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    same(links)
