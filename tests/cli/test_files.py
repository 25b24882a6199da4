"""The commands that look into files: inspect, verify, edit, repack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.cli.main import main
from ggq.format import Writer, open_reader
from ggq.quant import encode_tensor, parse_scheme
from tests.kit.small_models import write_demo

Capture = pytest.CaptureFixture[str]
NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_demo(tmp_path / "demo.ggq", "q4-g32")


def json_of(capsys: Capture, *arguments: str, status: int = 0) -> dict[str, Any]:
    """What a command prints with --json, which must be one document and nothing else."""
    assert main([*arguments, "--json"]) == status
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert isinstance(document, dict)
    return document


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_summary(model: Path, capsys: Capture) -> None:
    assert main(["inspect", str(model)]) == 0
    out = capsys.readouterr().out
    assert "919 thousand in 38 tensors" in out
    assert "bits per weight  4.50" in out
    assert "q4-g32: 29 tensors" in out
    assert "LlamaForCausalLM, layers 4, hidden 128" in out
    assert NAME not in out


def test_tensors(model: Path, capsys: Capture) -> None:
    assert main(["inspect", str(model), "--tensors"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(NAME)]
    assert line.split() == [NAME, "128", "x", "128", "q4-g32", "9.22", "kB"]


def test_inspect_as_json(model: Path, capsys: Capture) -> None:
    document = json_of(capsys, "inspect", str(model))
    assert "tensors" not in document
    document = json_of(capsys, "inspect", str(model), "--tensors")
    with open_reader(model) as reader:
        assert document["digest"] == reader.digest.hex()
        assert [tensor["name"] for tensor in document["tensors"]] == list(reader.tensors)
    assert document["file_bytes"] == model.stat().st_size
    assert document["parameters"] == sum(int(np.prod(tensor["shape"])) for tensor in document["tensors"])
    tensor = {tensor["name"]: tensor for tensor in document["tensors"]}[NAME]
    assert tensor["segments"] == {"codes": 128 * 128 // 2, "scales": 128 * 4 * 2}
    assert tensor["bytes"] == 9216
    assert document["metadata"]["model.layers"] == [0, 0, 0, 0]


def test_one_metadata_value(model: Path, capsys: Capture) -> None:
    assert main(["edit", str(model), 'ids=["' + '", "'.join("abcdefgh") + '"]', "text=a\nb\x1b"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(model), "--metadata", "ids"]) == 0
    assert capsys.readouterr().out == '["a", "b", "c", "d", "e", "f", "g", "h"]\n'
    assert main(["inspect", str(model), "--metadata", "text"]) == 0
    assert capsys.readouterr().out == "a\nb\\x1b\n"
    assert json_of(capsys, "inspect", str(model), "--metadata", "text") == {"text": "a\nb\x1b"}
    assert main(["inspect", str(model), "--metadata", "model.laiers"]) == 2
    assert "did you mean model.layers" in capsys.readouterr().err


def test_long_lists_are_abbreviated_in_the_summary(model: Path, capsys: Capture) -> None:
    assert main(["edit", str(model), f"many={list(range(100))}"]) == 0
    capsys.readouterr()
    assert json_of(capsys, "inspect", str(model))["metadata"]["many"] == {"items": 100, "first": [0, 1, 2, 3]}
    assert main(["inspect", str(model)]) == 0
    assert "[0, 1, 2, 3, ...] (100 items)" in capsys.readouterr().out


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    scheme = parse_scheme("f32")
    with Writer(tmp_path / "evil.ggq") as writer:
        writer.add_metadata("general.name", "\x1b]0;title\x07\u202e")
        writer.add_asset("tokenizer.json", b"{}")
        for name in ("a\u202eb", "c\x7fd"):
            try:
                writer.add_tensor(name, (2,), scheme, encode_tensor(np.ones(2, np.float32), scheme))
            except Exception as refusal:  # the format may refuse such names from the start
                assert name.encode() not in str(refusal).encode()
        writer.add_tensor("plain", (2,), scheme, encode_tensor(np.ones(2, np.float32), scheme))
        writer.finish()
    assert main(["inspect", str(tmp_path / "evil.ggq"), "--tensors"]) == 0
    out = capsys.readouterr().out
    assert "\\x1b]0;title\\x07\\u202e" in out
    assert not set(out) & set("\x1b\x07\u202e\x7f")


def test_verify_a_whole_file(model: Path, capsys: Capture) -> None:
    assert main(["verify", str(model)]) == 0
    assert "38 tensors are as they were written" in capsys.readouterr().out
    document = json_of(capsys, "verify", str(model))
    assert document["ok"] is True
    assert document["problems"] == []


def test_verify_names_the_damaged_tensor(model: Path, capsys: Capture) -> None:
    with open_reader(model) as reader:
        position = reader.tensors[NAME].segments["codes"].offset + 1000
    flip(model, position)
    assert main(["verify", str(model)]) == 1
    assert NAME in capsys.readouterr().out
    document = json_of(capsys, "verify", str(model), status=1)
    assert document["ok"] is False
    assert [problem["tensor"] for problem in document["problems"]] == [NAME]


def test_verify_finds_numbers_that_break_a_rule(tmp_path: Path, capsys: Capture) -> None:
    """Bytes with a true digest that are no weights: an infinity in a float tensor, a scale that is not a number."""
    path = tmp_path / "odd.ggq"
    floats, codes = parse_scheme("f32"), parse_scheme("q4-g32")
    segments = {role: np.array(part) for role, part in encode_tensor(np.ones((16, 32), np.float32), codes).items()}
    segments["scales"][:2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
    with Writer(path) as writer:
        writer.add_tensor("infinite", (2,), floats, {"values": np.array([1, np.inf], np.float32).view(np.uint8)})
        writer.add_tensor("scaled", (16, 32), codes, segments)
        writer.finish()
    problems = json_of(capsys, "verify", str(path), status=1)["problems"]
    assert [problem["tensor"] for problem in problems] == ["infinite", "scaled"]


def test_verify_what_cannot_be_read(model: Path, tmp_path: Path, capsys: Capture) -> None:
    data = model.read_bytes()
    (tmp_path / "short.ggq").write_bytes(data[:-1000])
    assert main(["verify", str(tmp_path / "short.ggq")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    document = json_of(capsys, "verify", str(tmp_path / "short.ggq"), status=2)
    assert document["ok"] is False
    assert main(["verify", str(tmp_path / "absent.ggq")]) == 2


def test_edit_keeps_types_and_tensors(model: Path, capsys: Capture) -> None:
    with open_reader(model) as reader:
        before = dict(reader.tensors)
    changes = [
        "general.name=Ünïcode = yes",
        "model.context_length=5",
        "model.embedding.scale=5",
        "tokenizer.eos_ids=[1, 2]",
    ]
    assert (
        main(["edit", str(model), *changes, "new.flag=true", "new.text=0x1", "--delete", "model.head.tied", "--force"])
        == 0
    )
    out = capsys.readouterr().out
    with open_reader(model) as reader:
        found = dict(reader.metadata)
        assert dict(reader.tensors) == before
        assert reader.digest.hex() in out
    assert found["general.name"] == "Ünïcode = yes"
    assert (found["model.context_length"], type(found["model.embedding.scale"])) == (5, float)
    assert found["model.embedding.scale"] == 5.0
    assert list(found["tokenizer.eos_ids"]) == [1, 2]  # type: ignore[arg-type]
    assert (found["new.flag"], found["new.text"]) == (True, "0x1")
    assert "model.head.tied" not in found
    assert main(["verify", str(model)]) == 0


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bool", "false", False),
        ("int", "-3", -3),
        ("float", "3", 3.0),
        ("string", "3", "3"),
        ("bytes", "00ff", b"\x00\xff"),
        ("list", "[true]", [True]),
    ],
)
def test_edit_with_a_type(model: Path, kind: str, text: str, value: object) -> None:
    assert main(["edit", str(model), f"k={text}", "--type", kind]) == 0
    with open_reader(model) as reader:
        found = reader.metadata["k"]
        assert (list(found) if isinstance(value, list) else found) == value  # type: ignore[arg-type]
        assert isinstance(value, list) or type(found) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to change"),
        (["name"], "'name' is not KEY=VALUE"),
        (["=1"], "'=1' is not KEY=VALUE"),
        (["model.context_length=many"], "'many' is no int for 'model.context_length'"),
        (["model.head.tied=1"], "write true or false"),
        (["tokenizer.eos_ids=1"], "write a JSON list"),
        (["a=[[[[" + "[" * 100_000, "--type", "list"], "nested too deeply"),
        (["a=1", "--type", "number"], "--type must be bool, int"),
        (["a=1", "--delete", "a"], "'a' cannot be both set and deleted"),
        (["--delete", "no.key"], "no.key"),
    ],
)
def test_edits_that_are_refused(model: Path, arguments: list[str], message: str, capsys: Capture) -> None:
    before = model.read_bytes()
    assert main(["edit", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert model.read_bytes() == before


def test_repack_drops_what_edits_left(model: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = model.stat().st_size
    for number in range(3):
        assert main(["edit", str(model), f"general.name=name {number}"]) == 0
    assert model.stat().st_size > whole
    out = tmp_path / "small.ggq"
    assert main(["repack", str(model), str(out)]) == 0
    assert out.stat().st_size < model.stat().st_size
    assert main(["verify", str(out)]) == 0
    with open_reader(model) as old, open_reader(out) as new:
        assert dict(old.metadata) == dict(new.metadata)
        assert list(old.tensors) == list(new.tensors)
    capsys.readouterr()
    assert main(["repack", str(model), str(out)]) == 2
    assert "small.ggq" in capsys.readouterr().err
    assert main(["repack", str(model), str(out), "--force"]) == 0
