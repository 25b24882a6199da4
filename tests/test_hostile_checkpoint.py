"""Broken and hostile checkpoints: each is refused before anything is written, in a message that says where and why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggq.convert.convert import convert, plan
from ggq.convert.json_input import DEEPEST, load_json, load_object
from ggq.convert.safetensors_header import LONGEST_HEADER, read_header
from ggq.errors import ConvertError, FormatError, GGQError, ModelError, UnsupportedError
from tests.checkpoints import TINY, edit_json, read_safetensors, replace_tensors, tiny, write_safetensors
from tools.make_model import tensors

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "m")


def refused(folder: Path, message: str, kind: type[GGQError] = GGQError) -> GGQError:
    """Converting must fail with this message, in two lines at most, and leave nothing behind."""
    out = folder.parent / "out.ggq"
    with pytest.raises(kind, match=message) as caught:
        convert(folder, out)
    assert len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 1000
    assert str(caught.value).isprintable() or str(caught.value).replace("\n", "").isprintable()
    assert not [path for path in out.parent.iterdir() if path.name.startswith("out.ggq")]
    return caught.value


# --- JSON


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "JSON expected, the file is empty"),
        (b" \n", "JSON expected, the file is empty"),
        (b"<!DOCTYPE html><p>404", "JSON expected, found an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "JSON expected, found a git-lfs pointer"),
        (b"GGUF\x03\0\0\0", "JSON expected, found a GGUF file"),
        (b"\x80\x04\x95", "JSON expected, found a Python pickle"),
        (b'{"a": "\xff"}', r"JSON expected, found (no UTF-8 text|JSON text)"),
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at line 1, column 8"),
        (b'{"a": 1} x', "not JSON: Extra data at line 1, column 10"),
        (b'{"a": 1, "a": 2}', "the name 'a' comes twice in one object"),
        (b'{"b": [{"\\u0061": 1, "a": 2}]}', "the name 'a' comes twice in one object"),
        (b'{"a": NaN}', "NaN found, which is not JSON"),
        (b'{"a": -Infinity}', "-Infinity found, which is not JSON"),
        (b'{"a": 1e999}', "the number '1e999' is too large"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "a number of 100000 digits, up to 400 allowed"),
        (b'{"a": 0.' + b"9" * 100_000 + b"}", "the number '0.9+' is too large"),
        (b'{"a": "\\ud800"}', "a string holds a lone surrogate"),
        (b'{"\\uDC00": 1}', "a string holds a lone surrogate"),
        (b"[" * 100_000, f"lie deeper than {DEEPEST} within each other"),
        (b"[" * 100_000 + b"]" * 100_000, f"lie deeper than {DEEPEST} within each other"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, f"lie deeper than {DEEPEST} within each other"),
        (b'[[{"a":[' * 40 + b"]}]]" * 40, f"lie deeper than {DEEPEST} within each other"),
        (b"[1, 2]", "a list of 2 found, an object expected"),
        (b"null", "None found, an object expected"),
        (b"\x00", "not JSON"),
    ],
)
def test_json_that_is_broken_or_ambiguous_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^config.json: .*{message}"):
        load_object(text, "config.json")


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, True, None, "𝄞 😀", {"b": {}}]},
        {"brackets in strings": "[" * 5000 + '"\\' + "{" * 5000, "\\": '\\"[{'},
        [[[]] * 300, {"a": [[], {}] * 200}],
    ],
)
def test_json_that_is_neither_is_read_as_python_reads_it(value: Any) -> None:
    value = json.loads(json.dumps(value))
    assert load_json(json.dumps(value).encode(), "x") == value
    assert load_json(json.dumps(value, ensure_ascii=False).encode("utf-8-sig"), "x") == value


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.booleans(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_survives(value: Any) -> None:
    assert load_json(json.dumps(value).encode(), "x") == value


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0d8e19.-', max_size=60).map(str.encode))
def test_anything_else_is_refused_as_a_format_error(data: bytes) -> None:
    try:
        load_json(data, "x")
    except FormatError as error:
        assert len(str(error)) < 500


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_every_json_file_of_a_checkpoint_goes_through_that_parser(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    (folder / name).write_text(f'{{"x": 1, "x": 2, {text.lstrip()[1:]}')
    refused(folder, f"{name}: the name 'x' comes twice", FormatError)
    (folder / name).write_bytes(b"[" * 100_000)
    refused(folder, f"{name}: objects and lists lie deeper", FormatError)


# --- safetensors

HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "dtype unknown": (lambda h: h[UP].update(dtype="F128"), "unknown dtype 'F128'; known: F64"),
    "dtype no string": (lambda h: h[UP].update(dtype=7), "unknown dtype 7"),
    "shape of another size": (
        lambda h: h[UP].update(shape=[44, 31]),
        r"shape \[44, 31\] of BF16 takes 2728 bytes, .* 2816",
    ),
    "shape empty": (lambda h: h[UP].update(shape=[]), r"shape \[\] of BF16 takes 2 bytes"),
    "dimension negative": (
        lambda h: h[UP].update(shape=[-44, -32]),
        r"whole numbers from 0 on expected, found \[-44, -32\]",
    ),
    "dimension huge": (lambda h: h[UP].update(shape=[2**63, 2]), r"found \[9223372036854775808, 2\]"),
    "product wraps to the right size": (lambda h: h[UP].update(shape=[2**62, 44, 32, 4]), "takes 519.* bytes"),
    "dimension a float": (lambda h: h[UP].update(shape=[44.0, 32]), r"found \[44.0, 32\]"),
    "dimension true": (lambda h: h[UP].update(shape=[True, 1408]), r"found \[True, 1408\]"),
    "shape a string": (lambda h: h[UP].update(shape="44x32"), "whole numbers from 0 on expected, found '44x32'"),
    "nine dimensions": (lambda h: h[UP].update(shape=[1] * 9), "a shape of up to 8"),
    "offsets of three": (
        lambda h: h[UP].update(data_offsets=[0, 1, 2]),
        r"data_offsets of two ascending .* \[0, 1, 2\]",
    ),
    "offsets descending": (lambda h: h[UP].update(data_offsets=[2816, 0]), "two ascending"),
    "offset negative": (lambda h: h[UP].update(data_offsets=[-2816, 0]), "two ascending"),
    "offset wrapping": (lambda h: h[UP].update(data_offsets=[2**64 - 2816, 2**64]), "two ascending"),
    "offset past the end": (lambda h: h[UP].update(data_offsets=[2**40, 2**40 + 2816]), "are announced, the file has"),
    "no offsets": (lambda h: h[UP].pop("data_offsets"), "an object of dtype, shape and data_offsets expected"),
    "a field more": (lambda h: h[UP].update(extra=1), "an object of dtype, shape and data_offsets expected"),
    "entry no object": (lambda h: h.update({UP: 3}), "an object of dtype, shape and data_offsets expected"),
    "name empty": (lambda h: h.update({"": h.pop(UP)}), "a name of 0 characters"),
    "name too long": (lambda h: h.update({"x" * 2000: h.pop(UP)}), "a name of 2000 characters"),
    "metadata no object": (lambda h: h.update(__metadata__=[1]), "__metadata__: an object of strings expected"),
    "metadata no strings": (lambda h: h.update(__metadata__={"a": 1}), "__metadata__: an object of strings expected"),
    "a tensor left out": (lambda h: h.pop(UP), "unused bytes"),
    "ranges shared": (
        lambda h: h[UP].update(data_offsets=h["model.layers.0.mlp.gate_proj.weight"]["data_offsets"]),
        "shares",
    ),
    "overlap of one byte": (
        lambda h: h[UP].update(data_offsets=[end - 1 for end in h[UP]["data_offsets"]]),
        "shares 1 bytes with 'model.layers.0.mlp.gate_proj.weight'",
    ),
    "a hole of one byte": (
        lambda h: h[UP].update(data_offsets=[end + 1 for end in h[UP]["data_offsets"]]),
        "lies 1 unused bytes behind",
    ),
}


@pytest.mark.parametrize("change, message", HEADERS.values(), ids=HEADERS)
def test_headers_that_the_bytes_do_not_bear_out(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    header, data = read_safetensors(folder / "model.safetensors")
    change(header)
    write_safetensors(folder / "model.safetensors", header, data)
    error = refused(folder, message, FormatError)
    assert "model.safetensors: " in str(error)


@pytest.mark.parametrize(
    "start, message",
    [
        (b"", "a safetensors file expected, found an empty file"),
        (b"\x10\0\0\0\0\0\0", "a safetensors file expected, found 7 bytes of something else"),
        (b"GGUF\x03\0\0\0" + bytes(64), "a safetensors file expected, found a GGUF file"),
        (b"PK\x03\x04" + bytes(64), "found a zip archive, perhaps a PyTorch checkpoint"),
        (b"\x80\x02}q\0" + bytes(64), "found a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(64), "found a git-lfs pointer"),
        (b"<html><body>Not found</body></html>" + bytes(64), "found an HTML page"),
        (bytes(64), "a safetensors file expected"),
        (
            (2**64 - 1).to_bytes(8, "little") + b"{" * 64,
            "a header of 18446744073709551615 bytes is announced, 64 are left",
        ),
        ((65).to_bytes(8, "little") + b"{" * 64, "a header of 65 bytes is announced, 64 are left"),
        ((64).to_bytes(8, "little") + b"{" * 64, "header: not JSON"),
        ((2).to_bytes(8, "little") + b"[]" + bytes(64), "a safetensors file expected"),
        ((2).to_bytes(8, "little") + b"{}" + bytes(64), "byte 10: 64 unused bytes at the end"),
    ],
)
def test_files_that_are_something_else(folder: Path, start: bytes, message: str) -> None:
    (folder / "model.safetensors").write_bytes(start)
    refused(folder, message, FormatError)


def test_a_header_past_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:  # sparse: takes no room
        file.write((LONGEST_HEADER + 1).to_bytes(8, "little") + b"{")
        file.truncate(LONGEST_HEADER + 100)
    with pytest.raises(
        FormatError, match=f"a header of {LONGEST_HEADER + 1} bytes found, up to {LONGEST_HEADER} allowed"
    ):
        read_header(path, path)


def test_truncated_anywhere_in_header_or_data(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in [*range(0, header, 7), header, header + 1, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match="model.safetensors: "):
            plan(folder)
    for more in (b"\0", bytes(5000)):
        path.write_bytes(data + more)
        with pytest.raises(FormatError, match=f"{len(more)} unused bytes at the end"):
            plan(folder)


@settings(max_examples=150)
@given(data=st.data())
def test_a_header_with_a_few_bytes_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.safetensors"
    entries = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    write_safetensors(path, entries, bytes(32))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 33))] = data.draw(st.sampled_from(b'\x00\xff0129-{}[]",:aFNe\\'))
    path.write_bytes(raw)
    try:
        found = read_header(path, path)
    except FormatError as error:
        assert str(path) in str(error)
    else:
        assert sum(tensor.bytes for tensor in found.tensors) == found.size - 8 - len(found.header)


def test_numbers_are_not_called_floats_because_they_fit(folder: Path) -> None:
    weights = {UP: np.zeros((44, 32), np.int64)}
    replace_tensors(folder / "model.safetensors", weights)
    refused(folder, f"tensor {UP}: dtype I64 found, F32, F16, BF16 can be converted", UnsupportedError)
    replace_tensors(folder / "model.safetensors", {UP: np.zeros((44, 32), np.float64)})
    refused(folder, "dtype F64 found", UnsupportedError)
    header, data = read_safetensors(folder / "model.safetensors")
    header[UP].update(dtype="F8_E4M3", shape=[44, 32])
    start, end = header[UP]["data_offsets"]
    rest = {k: v for k, v in header.items() if v["data_offsets"][0] >= end}
    for entry in rest.values():
        entry["data_offsets"] = [place - (end - start - 1408) for place in entry["data_offsets"]]
    header[UP]["data_offsets"] = [start, start + 1408]
    write_safetensors(folder / "model.safetensors", header, data[: start + 1408] + data[end:])
    refused(folder, "dtype F8_E4M3 found", UnsupportedError)


# --- tensors against config.json


@pytest.mark.parametrize(
    "changes, message",
    [
        ({UP: None}, f"1 of 2[0-9] tensors missing: '{UP}'"),
        (
            dict.fromkeys([n for n in tensors(TINY, True) if "layers.1" in n]),
            "9 of 2[0-9] tensors missing: .* and 4 more",
        ),
        (
            {"model.layers.0.extra.weight": np.zeros(3, np.float32)},
            "1 tensors that the architecture does not have: 'model.layers",
        ),
        ({"\x1b[31m\u202e": np.zeros(3, np.float32)}, r"does not have: '\\x1b\[31m\\u202e'"),
        ({"model.layers.2.mlp.up_proj.weight": np.zeros((44, 32), np.float32)}, "does not have"),
        ({"../../etc/passwd": np.zeros(3, np.float32)}, "does not have: '../../etc/passwd'"),
        (
            {UP: np.zeros((32, 44), np.float32)},
            rf"tensor {UP}: shape \[32, 44\] found, config.json asks for \[44, 32\]",
        ),
        ({UP: np.zeros(44 * 32, np.float32)}, r"shape \[1408\] found"),
        ({UP: np.zeros((1, 44, 32), np.float32)}, r"shape \[1, 44, 32\] found"),
        ({"model.norm.weight": np.zeros((), np.float32)}, r"shape \[\] found"),
        ({UP: np.zeros((44, 0), np.float32)}, r"shape \[44, 0\] found"),
        ({"lm_head.weight": np.zeros((3, 32), np.float32)}, r"lm_head.weight: shape \[3, 32\] found"),
        ({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}, "does not have: .*bias"),
    ],
)
def test_tensors_missing_unknown_or_misshapen(folder: Path, changes: dict[str, Any], message: str) -> None:
    replace_tensors(folder / "model.safetensors", changes)
    refused(folder, message, ConvertError)


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        (
            {"architectures": ["T5ForConditionalGeneration"]},
            UnsupportedError,
            "'T5.*' is not supported; supported: Llama",
        ),
        ({"architectures": None}, ModelError, "architectures: None found, a list with one class name expected"),
        ({"architectures": []}, ModelError, "architectures: a list of 0 found"),
        ({"architectures": [5]}, ModelError, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, ModelError, "architectures"),
        ({"architectures": ["\x1b[2J"]}, UnsupportedError, r"'\\x1b\[2J' is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedError, "quantized already"),
        ({"hidden_size": None}, ModelError, "hidden_size: missing"),
        ({"hidden_size": 0}, ModelError, "hidden_size"),
        ({"hidden_size": "32"}, ModelError, "hidden_size"),
        ({"hidden_size": 10**300}, ModelError, "hidden_size"),
        ({"num_hidden_layers": 10**9}, ModelError, "num_hidden_layers: 1000000000 found"),
        ({"num_hidden_layers": -1}, ModelError, "num_hidden_layers"),
        ({"num_attention_heads": 5}, ModelError, "heads"),
        ({"num_key_value_heads": 3}, ModelError, "heads"),
        ({"vocab_size": 10**9}, ModelError, "vocab_size"),
        (
            {"vocab_size": 321},
            ConvertError,
            r"embed_tokens.weight: shape \[320, 32\] found, config.json asks for \[321, 32\]",
        ),
        ({"max_position_embeddings": 2**40}, ModelError, "max_position_embeddings"),
        ({"rope_theta": 0}, ModelError, "rope_theta"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act"),
        ({"tie_word_embeddings": False}, ConvertError, "1 of 2[0-9] tensors missing: 'lm_head.weight'"),
        ({"attention_bias": True}, ConvertError, "tensors missing: .*bias"),
    ],
)
def test_configs_that_mean_nothing_or_something_else(
    folder: Path, changes: dict[str, Any], kind: type[GGQError], message: str
) -> None:
    edit_json(folder / "config.json", **changes)
    refused(folder, message, kind)


# --- tokenizer


@pytest.mark.parametrize(
    "change, kind, message",
    [
        (lambda t: t.pop("model"), FormatError, "tokenizer.json: model: None found, an object expected"),
        (lambda t: t.update(model=[]), FormatError, "model: a list of 0 found"),
        (
            lambda t: t["model"].update(type="Quantum"),
            UnsupportedError,
            "model.type: tokenizer 'Quantum' is not supported",
        ),
        (lambda t: t["model"].update(type=None), UnsupportedError, "model.type: tokenizer None"),
        (lambda t: t["model"].update(vocab=5), FormatError, "the tokenizers library refuses it"),
        (lambda t: t["model"].update(merges=[["no", "such"]]), FormatError, "the tokenizers library refuses it"),
        (lambda t: t["model"]["vocab"].update(x1=-1), FormatError, "the tokenizers library refuses it"),
        (
            lambda t: t["model"]["vocab"].update(x1=320),
            ConvertError,
            "token 320 is past the end of the embedding, .* 320 rows",
        ),
        (lambda t: t["model"]["vocab"].update(x1=2**31), ConvertError, "token 2147483648 is past the end"),
        (
            lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 400, "content": "<x>"}),
            ConvertError,
            "past the end",
        ),
    ],
)
def test_tokenizers_that_do_not_work_or_do_not_belong_to_the_model(
    folder: Path, change: Callable[[dict[str, Any]], Any], kind: type[GGQError], message: str
) -> None:
    value = json.loads((folder / "tokenizer.json").read_text())
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    refused(folder, message, kind)


def test_a_missing_tokenizer_says_how_to_get_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    error = refused(folder, "tokenizer.json: missing\n", ConvertError)
    assert "AutoTokenizer" in str(error.fix)
    (folder / "tokenizer.model").write_bytes(b"x")
    refused(folder, "tokenizer.json: missing; there is only tokenizer.model", ConvertError)


@pytest.mark.parametrize(
    "name, changes, kind, message",
    [
        (
            "config.json",
            {"eos_token_id": -1},
            ConvertError,
            "eos_token_id: token -1 found, the vocabulary has 0 to 319",
        ),
        ("config.json", {"eos_token_id": [1, 320]}, ConvertError, "eos_token_id: token 320 found"),
        ("config.json", {"bos_token_id": "0"}, FormatError, "bos_token_id: '0' found, a token's id expected"),
        ("config.json", {"bos_token_id": True}, FormatError, "bos_token_id: True found"),
        ("generation_config.json", {"eos_token_id": 2**70}, ConvertError, "generation_config.json: eos_token_id"),
        ("generation_config.json", {"eos_token_id": [[1]]}, FormatError, "a list of 1 found, a token's id expected"),
        ("tokenizer_config.json", {"bos_token": 3}, FormatError, "tokenizer_config.json: bos_token: 3 found"),
        ("tokenizer_config.json", {"eos_token": {"content": 3}}, FormatError, "eos_token: an object found"),
    ],
)
def test_special_tokens_of_the_wrong_type_or_past_the_end(
    folder: Path, name: str, changes: dict[str, Any], kind: type[GGQError], message: str
) -> None:
    edit_json(folder / name, **changes)
    refused(folder, message, kind)


# --- files and folders


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
    replace_tensors(second, {"surplus": np.zeros(3, np.float32)})
    refused(sharded, "tensor 'surplus': in model-00002-of-00003.safetensors, but not in the index", ConvertError)
    second.write_bytes(data)
    edit_index(sharded, lambda places: places.update(absent="model-00001-of-00003.safetensors"))
    refused(sharded, "tensor 'absent': in no file, the index says model-00001", ConvertError)


def test_a_tensor_in_another_shard_than_the_index_says(sharded: Path) -> None:
    edit_index(sharded, lambda places: places.update({"model.norm.weight": "model-00001-of-00003.safetensors"}))
    refused(sharded, "'model.norm.weight': in model-00003.*, the index says model-00001", ConvertError)


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
