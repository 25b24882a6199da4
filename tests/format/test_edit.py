"""Editing and repacking: the tensors are not touched, and a crash leaves the old state or the new one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ggq.errors import FormatError, GGQError, UsageError
from ggq.format import Reader, edit_metadata, open_reader, paths, repack, verify
from ggq.format.native import edit, writer
from tests.kit.format_files import TENSORS, data_of, fail_after, left_over
from tests.kit.support import ROOT
from tools import read_ggq


def assert_whole(reader: Reader) -> None:
    assert verify(reader) == []
    for seed, (name, shape, scheme) in enumerate(TENSORS):
        assert reader.tensors[name].attributes == {"role": f"role.{seed}", "error": seed / 8}
        for role, data in data_of(scheme, shape, seed).items():
            assert (reader.segment(name, role) == data).all()
    assert reader.assets["config.json"].read() == b'{"a": 1}\n'


def test_values_are_changed_added_and_removed(small: Path) -> None:
    before = small.read_bytes()
    first = edit_metadata(small, {"general.name": "other", "general.license": "MIT"})
    second = edit_metadata(str(small), {"example.words": None, "numbers": [1, 2]})
    assert first != second
    with open_reader(small) as reader:
        assert dict(reader.metadata) == {"general.name": "other", "general.license": "MIT", "numbers": [1, 2]}
        assert reader.digest == second
        assert len(reader.index.retired) == 2
        assert_whole(reader)
    assert small.read_bytes()[: len(before)] == before
    assert read_ggq.read(str(small), verify=True)["digest"] == second


def test_values_that_are_not_changed_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "values.ggq"
    path.write_bytes((ROOT / "spec" / "vectors" / "good" / "values.ggq").read_bytes())
    with open_reader(path) as reader:
        before = {key: reader.metadata.raw(key) for key in reader.metadata}
    edit_metadata(path, {"bytes": b"new"})
    with open_reader(path) as reader:
        after = {key: reader.metadata.raw(key) for key in reader.metadata}
        assert reader.metadata["bytes"] == b"new"
        assert reader.metadata.type("u64.small") == "u64"
    assert {key for key in before if before[key] != after[key]} == {"bytes"}
    assert list(before) == list(after)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"no.such": None}, UsageError, "small.ggq: there is no metadata 'no.such' to remove"),
        ({"a b": 1}, FormatError, "the key 'a b' is not"),
        ({"general.name": float("nan")}, FormatError, "metadata general.name: a NaN cannot be stored"),
    ],
)
def test_changes_that_cannot_be_made(small: Path, changes: Any, error: type[GGQError], message: str) -> None:
    before = small.read_bytes()
    with pytest.raises(error, match=message):
        edit_metadata(small, changes)
    assert small.read_bytes() == before


def test_an_edit_cut_anywhere_leaves_the_old_state(small: Path, tmp_path: Path) -> None:
    old = small.read_bytes()
    edit_metadata(small, {"general.name": "other"})
    new = small.read_bytes()
    path = tmp_path / "cut.ggq"
    sizes = {*range(len(old), len(new), 5), *range(len(old), len(old) + 66), *range(len(new) - 130, len(new))}
    for size in sorted(sizes):
        path.write_bytes(new[:size])
        with open_reader(path) as reader:
            assert reader.metadata["general.name"] == "small"
            assert reader.trailing == size - len(old)
            if size % 64 < 2:
                problems = [problem.text[-6:] for problem in verify(reader)]
                assert problems == (["(C-16)"] if size > len(old) else [])


@pytest.mark.parametrize("torn", [1, 63, 64, 65, 500])
def test_an_edit_after_an_interrupted_one(small: Path, torn: int) -> None:
    size = small.stat().st_size
    with small.open("ab") as file:
        file.write(b"x" * torn)
    edit_metadata(small, {"general.name": "after"})
    with open_reader(small) as reader:
        assert reader.metadata["general.name"] == "after"
        assert [int(row["offset"] + row["length"]) for row in reader.index.retired] == [size + torn]
        assert_whole(reader)


@pytest.mark.parametrize("call", [0, 1])
def test_a_full_disk_leaves_the_old_bytes(small: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = small.read_bytes(), iter(range(9))

    def write_all(file: Any, data: Any) -> int:
        if next(calls) == call:
            paths.write_all(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return paths.write_all(file, data)

    monkeypatch.setattr(edit, "write_all", write_all)
    with pytest.raises(GGQError, match="small.ggq: cannot write: No space left on device"):
        edit_metadata(small, {"general.name": "other"})
    assert small.read_bytes() == before


def test_the_index_is_synced_before_the_footer_is_written(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    def write_all(file: Any, data: Any) -> int:
        events.append(len(data) if len(data) <= 64 else "index")
        return paths.write_all(file, data)

    monkeypatch.setattr(edit, "write_all", write_all)
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync"))
    edit_metadata(small, {"general.name": "other"})
    assert events == ["index", "sync", 64, "sync"]


def test_a_reader_keeps_its_view_while_the_file_is_edited(small: Path) -> None:
    with open_reader(small) as reader:
        kept = reader.segment("norm", "values")
        edit_metadata(small, {"general.name": "other"})
        assert reader.metadata["general.name"] == "small"
        assert (kept == data_of(TENSORS[2][2], TENSORS[2][1], 2)["values"]).all()
        assert verify(reader) == []


def test_what_cannot_be_edited(tmp_path: Path, small: Path) -> None:
    other = tmp_path / "other.ggq"
    other.write_bytes(b"GGUF" + bytes(200))
    with pytest.raises(FormatError, match="not a ggq file: a GGUF file"):
        edit_metadata(other, {"a": 1})
    assert other.read_bytes() == b"GGUF" + bytes(200)
    with pytest.raises(GGQError, match="cannot open: No such file"):
        edit_metadata(tmp_path / "missing.ggq", {"a": 1})
    with small.open("r+b", buffering=0) as file:
        paths.lock(file, str(small))
        with pytest.raises(GGQError, match="another process is writing this file"):
            edit_metadata(small, {"a": 1})


def test_repack_gives_back_the_file_before_its_edits(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    edit_metadata(small, {"general.name": "other"})
    edit_metadata(small, {"general.name": "small"})
    out = tmp_path / "out.ggq"
    seen: list[tuple[int, int]] = []
    digest = repack(small, out, progress=lambda done, size: seen.append((done, size)))
    assert out.read_bytes() == before
    assert len(seen) == len(TENSORS)
    with open_reader(out) as reader:
        assert reader.digest == digest
        assert len(reader.index.retired) == 0


def test_repack_keeps_what_it_does_not_understand(tmp_path: Path) -> None:
    source = ROOT / "spec" / "vectors" / "good" / "unknown.ggq"
    repack(source, tmp_path / "out.ggq")
    assert (tmp_path / "out.ggq").read_bytes() == source.read_bytes()


def test_repack_refuses_its_own_input_and_existing_files(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    (tmp_path / "link.ggq").symlink_to(small)
    for out in (small, tmp_path / "link.ggq"):
        with pytest.raises(UsageError, match="the output is the input itself\nchoose another name, then rename it"):
            repack(small, out, force=True)
    (tmp_path / "there.ggq").write_bytes(b"old")
    with pytest.raises(UsageError, match="the file exists already"):
        repack(small, tmp_path / "there.ggq")
    assert small.read_bytes() == before
    assert (tmp_path / "there.ggq").read_bytes() == b"old"


def test_repack_refuses_damage(small: Path, tmp_path: Path) -> None:
    with open_reader(small) as reader:
        offset = reader.tensors["stack"].segments["scales"].offset
    data = bytearray(small.read_bytes())
    data[offset + 3] ^= 16
    small.write_bytes(data)
    with pytest.raises(FormatError, match=r"tensor stack, scales: the bytes do not fit their digest"):
        repack(small, tmp_path / "out.ggq")
    assert not (tmp_path / "out.ggq").exists()


def test_repack_that_fails_leaves_nothing_and_speaks_of_no_resume(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    out = tmp_path / "out.ggq"
    for count in (100, 2000):  # before the first tensor is whole, and after
        monkeypatch.setattr(writer, "write_all", fail_after(count, full))
        with pytest.raises(GGQError) as caught:
            repack(small, out)
        problem = f"{out}.partial: cannot write: No space left on device\nfree some space and run it again"
        assert str(caught.value) == problem
        assert left_over(out) == []


def test_repack_looks_at_the_place_first(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path / "folder"))
    for out, problem in (
        (tmp_path / "no" / "out.ggq", f"there is no folder {tmp_path / 'no'}\nmake it first"),
        (tmp_path / "folder", "the name of a file expected, found a folder"),
        (
            tmp_path / "folder" / "out.ggq",
            f"the folder {tmp_path / 'folder'} cannot be written to\nchoose another place",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            repack(small, out)
        assert str(caught.value) == f"{out}: {problem}"
