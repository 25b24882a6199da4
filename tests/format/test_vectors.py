"""The container's vectors and tables: the package's reader, the second reader and the specification agree."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ggq.errors import FormatError, GGQError
from ggq.format import open_reader, verify
from ggq.format.native import layout
from ggq.format.native.descriptor import BODY_FIELDS, decode_descriptor, encode_descriptor, require_scheme
from ggq.format.native.values import TYPES, LazyArray
from ggq.quant import check_segments, parse_scheme, scheme_name
from tests.kit import quant_oracle as oracle
from tests.kit.support import ROOT
from tools import bad_files, make_vectors, read_ggq

GOOD = sorted((ROOT / "spec" / "vectors" / "good").glob("*.ggq"))
BAD = ROOT / "spec" / "vectors" / "bad"
MANIFEST = json.loads((BAD / "manifest.json").read_text())
SPEC = (ROOT / "spec" / "container.md").read_text(encoding="utf-8")
DEFINED = re.findall(r"^\*\*(C-\d+)\*\*", SPEC, re.MULTILINE)
SCHEMES = (ROOT / "spec" / "schemes.md").read_text(encoding="utf-8")
WITHOUT_BAD_FILE = {
    "C-2": "no file of 2^62 bytes can be made; a shrinking file is in test_format_reader.py",
    "C-21": "binds writers: test_format_values.py",
    "C-42": "binds writers: test_format_values.py",
    **{
        f"C-{number}": "binds writers: test_format_writer.py, test_format_resume.py, test_format_edit.py"
        for number in (80, 81, 82, 83)
    },
}


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, LazyArray) else value


def stems(path: Path) -> str:
    return path.stem


def contents(path: Path) -> dict[str, Any]:
    """What the package's reader sees, in the second reader's form."""
    with open_reader(path) as reader:
        tensors = [
            {
                "name": entry.name,
                "shape": entry.shape,
                "known": entry.scheme is not None,
                "segments": {role: tuple(part) for role, part in entry.segments.items()},
                "attributes": entry.attributes,
            }
            for entry in reader.tensors.values()
        ]
        metadata = {key: plain(value) for key, value in reader.metadata.items()}
        assets = {name: (asset.offset, asset.size, asset.digest) for name, asset in reader.assets.items()}
        assert verify(reader) == []
        return {"metadata": metadata, "tensors": tensors, "assets": assets, "digest": reader.digest}


def second(path: Path) -> dict[str, Any]:
    """What the second reader sees."""
    found = read_ggq.read(str(path), verify=True)
    for tensor in found["tensors"]:
        tensor["known"] = tensor.pop("scheme")["known"]
    return {key: found[key] for key in ("metadata", "tensors", "assets", "digest")}


@pytest.mark.parametrize("path", GOOD, ids=stems)
def test_both_readers_agree_on_a_good_file(path: Path) -> None:
    ours, theirs = contents(path), second(path)
    assert ours == theirs
    kinds = [list(map(type, found["metadata"].values())) for found in (ours, theirs)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("case", MANIFEST, ids=lambda case: case["file"][:-4])
def test_both_readers_refuse_a_bad_file(case: dict[str, str]) -> None:
    path = BAD / case["file"]
    if case["stage"] == "numbers":
        with open_reader(path) as reader:
            assert verify(reader) == []
            (entry,) = reader.tensors.values()
            segments = {role: reader.segment(entry.name, role).tobytes() for role in entry.segments}
            scheme, shape = require_scheme(entry.descriptor, entry.name, str(path)), entry.shape
        with pytest.raises(FormatError) as broken:
            check_segments(scheme, shape, segments)
        assert f"({case['rule']})" in str(broken.value)
        assert case["message"] in str(broken.value)
        assert oracle.broken_rule(scheme_name(scheme), *shape, segments) == case["rule"]
        read_ggq.read(str(path), verify=True)
        return
    if case["stage"] == "verify":
        with open_reader(path) as reader:
            problems = verify(reader)
        assert len(problems) == 1
        message = problems[0].text
    else:
        with pytest.raises(GGQError) as caught:
            open_reader(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
    assert case["message"] in message
    assert f"({case['rule']})" in message
    with pytest.raises(read_ggq.Refused) as refused:
        read_ggq.read(str(path), verify=case["stage"] == "verify")
    assert refused.value.rule == case["rule"]


def test_a_damaged_tensor_is_named() -> None:
    for name, tensor in (("codes-flipped", "a.weight"), ("scales-flipped", "a.weight"), ("asset-flipped", None)):
        with open_reader(BAD / f"{name}.ggq") as reader:
            (problem,) = verify(reader)
        assert problem.tensor == tensor
        assert (tensor or "asset LICENSE") in problem.where


def test_every_rule_has_a_bad_file_or_a_reason() -> None:
    used = {case["rule"] for case in MANIFEST if case["stage"] != "numbers"}
    assert used | set(WITHOUT_BAD_FILE) == set(DEFINED)
    assert not used & set(WITHOUT_BAD_FILE)
    assert len(DEFINED) == len(set(DEFINED))


def test_every_rule_that_numbers_are_checked_for_has_a_bad_file() -> None:
    cited = set(re.findall(r"S\d+\.\d+", (ROOT / "ggq" / "quant" / "check.py").read_text()))
    assert cited == {case["rule"] for case in MANIFEST if case["stage"] == "numbers"}
    assert cited <= set(re.findall(r"^\*\*(S\d+\.\d+)\*\*", SCHEMES, re.MULTILINE))


def test_messages_cite_rules_that_exist() -> None:
    sources = [path.read_text() for path in (ROOT / "ggq" / "format").rglob("*.py")]
    cited = set(re.findall(r"C-\d+", "".join(sources)))
    assert cited <= set(DEFINED)
    assert set(re.findall(r"C-\d+", Path(read_ggq.__file__).read_text())) <= set(DEFINED)


def test_vectors_are_what_the_tool_writes() -> None:
    assert make_vectors.check() == []


def test_the_check_fails_on_a_changed_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "vectors"
    shutil.copytree(make_vectors.VECTORS, copy)
    monkeypatch.setattr(make_vectors, "VECTORS", copy)
    (copy / "good" / "minimal.ggq").write_bytes(b"other")
    (copy / "bad" / "bool-7.ggq").unlink()
    (copy / "bad" / "stray.ggq").write_bytes(b"")
    assert make_vectors.main(["--check"]) == 1
    named = re.findall(r"spec/vectors/(\S+) is", capsys.readouterr().err)
    assert named == ["bad/bool-7.ggq", "bad/stray.ggq", "good/minimal.ggq"]


def test_bad_files_are_small_and_named_once() -> None:
    names = [case.name for case in bad_files.CASES]
    assert len(names) == len(set(names))
    sizes = [path.stat().st_size for folder in ("good", "bad") for path in (BAD.parent / folder).iterdir()]
    assert sum(sizes) < 300_000


def parse_hex(block: str) -> bytes:
    """Bytes of a hex block: an offset, bytes or `00*count`, a comment after two spaces."""
    data = b""
    for line in block.splitlines():
        offset, text = re.fullmatch(r" *(\d+)  (\S+(?: \S+)*?)(?:  .*)?", line).groups()  # type: ignore[union-attr]
        assert int(offset) == len(data)
        data += bytes(int(text[3:])) if text.startswith("00*") else bytes.fromhex(text)
    return data


def test_the_worked_file_in_the_specification(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```file worked\.ggq\n(.*?)^```", SPEC, re.MULTILINE | re.DOTALL)
    raw = parse_hex(block)
    assert f"\n{len(raw)} bytes:" in SPEC
    path = tmp_path / "worked.ggq"
    path.write_bytes(raw)
    assert contents(path) == second(path) == contents(BAD.parent / "good" / "worked.ggq")
    with open_reader(path) as reader:
        assert dict(reader.metadata) == {"general.name": "worked", "example.words": ["to", "", "b\u00e9"]}
        assert reader.segment("norm", "values").view("<f4").tolist() == [1.5, -2, 0.25]
        assert reader.tensors["norm"].attributes == {"role": "norm.weight"}
        assert reader.assets["LICENSE"].read() == b"MIT\n"


def test_the_descriptors_in_the_specification() -> None:
    blocks = re.findall(r"^```descriptor (\S+)\n(.*?)^```", SPEC, re.MULTILINE | re.DOTALL)
    assert blocks
    for name, text in blocks:
        raw = bytes.fromhex(text)
        assert decode_descriptor(raw, name).scheme == parse_scheme(name)
        assert encode_descriptor(parse_scheme(name)) == raw


def tables() -> list[list[list[str]]]:
    """The specification's tables, each a list of rows of cells, without the line of dashes."""
    found = re.findall(r"((?:^\|.*\|\n)+)", SPEC, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()] for text in found]
    return [[table[0], *table[2:]] for table in rows]


@pytest.mark.parametrize(("number", "fields"), [(0, layout.HEADER), (1, layout.FOOTER), (2, layout.COUNTS)])
def test_tables_of_fields_are_those_of_the_code(number: int, fields: tuple[layout.Field, ...]) -> None:
    laid_out = [table for table in tables() if table[0][:4] == ["offset", "size", "type", "field"]]
    rows = laid_out[number][1:]
    assert [layout.Field(row[3], int(row[0]), int(row[1]), row[2]) for row in rows] == list(fields)
    if fields is layout.COUNTS:
        assert {row[3]: int(row[4]) for row in rows} == {**layout.LIMITS, "reserved": 0}


def test_tables_of_records_are_those_of_the_code() -> None:
    laid_out = [table for table in tables() if table[0][:4] == ["offset", "size", "type", "field"]]
    for table, dtype in ((laid_out[3], layout.RANGE), (laid_out[5], layout.TENSOR)):
        fields = dtype.fields
        assert fields is not None
        found = [(row[3], int(row[0]), int(row[1])) for row in table[1:]]
        assert found == [(name, fields[name][1], fields[name][0].itemsize) for name in fields]
    body = [row[3].replace("-", "").replace("sub scale", "subscale") for row in laid_out[4][1:-1]]
    assert [name.replace(" ", "_") for name in body] == list(BODY_FIELDS)


def test_the_table_of_types_is_that_of_the_code() -> None:
    (table,) = [table for table in tables() if table[0] == ["type", "name", "payload"]]
    assert {int(row[0]): row[1] for row in table[1:]} == TYPES
