"""Opening and reading: what the reader hands out, how lazily, and what it says when it cannot."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ggq.errors import FormatError, GGQError, UnsupportedError, UsageError
from ggq.format import Reader, Writer, open_reader, verify
from ggq.format.native.index import parse_index
from ggq.format.native.values import LazyArray
from tests.kit.format_files import FLOAT, TENSORS, data_of
from tests.kit.support import ROOT, run_python

UNKNOWN = ROOT / "spec" / "vectors" / "good" / "unknown.ggq"


def test_tensors_come_back_as_written(small: Path) -> None:
    with open_reader(small) as reader:
        assert list(reader.tensors) == [name for name, _, _ in TENSORS]
        for seed, (name, shape, scheme) in enumerate(TENSORS):
            entry = reader.tensors[name]
            assert (entry.name, entry.shape, entry.scheme) == (name, shape, scheme)
            assert entry.attributes == {"role": f"role.{seed}", "error": seed / 8}
            for role, data in data_of(scheme, shape, seed).items():
                found = reader.segment(name, role)
                assert found.dtype == np.uint8 and found.shape == data.shape
                assert (found == data).all()
                assert not found.flags.writeable
                assert found.ctypes.data % 64 == 0
        assert reader.size == small.stat().st_size
        assert reader.trailing == 0


def test_metadata_and_assets_come_back(small: Path) -> None:
    with open_reader(str(small)) as reader:
        assert dict(reader.metadata) == {"general.name": "small", "example.words": ["a", "", "\u00e9"]}
        assert isinstance(reader.metadata["example.words"], LazyArray)
        assert reader.metadata.type("general.name") == "string"
        assert reader.metadata.type("example.words") == "array of string"
        assert {name: asset.read() for name, asset in reader.assets.items()} == {
            "config.json": b'{"a": 1}\n',
            "empty": b"",
        }
        assert reader.assets["config.json"].size == 9
        with pytest.raises(KeyError):
            reader.metadata["general.nothing"]


def test_segments_outlive_the_reader(small: Path) -> None:
    with open_reader(small) as reader:
        kept = reader.segment("norm", "values")
    assert (kept == data_of(FLOAT, (40,), 2)["values"]).all()
    with pytest.raises(UsageError, match="the file is closed"):
        reader.segment("norm", "values")
    with pytest.raises(UsageError, match="the file is closed"):
        reader.assets["config.json"].read()


def test_a_segment_that_is_not_there(small: Path) -> None:
    with open_reader(small) as reader:
        with pytest.raises(UsageError, match="there is no tensor 'nothing'"):
            reader.segment("nothing", "codes")
        with pytest.raises(UsageError, match="tensor norm: no segment 'codes', it has values"):
            reader.segment("norm", "codes")


def test_an_unknown_scheme_is_listed_and_refused_on_use() -> None:
    with open_reader(UNKNOWN) as reader:
        unknown = [name for name, entry in reader.tensors.items() if entry.scheme is None]
        assert len(unknown) == len(reader.tensors) - 1 == 16
        for name in unknown:
            role = next(iter(reader.tensors[name].segments))
            with pytest.raises(UnsupportedError, match=f"tensor {name}: stored with a scheme of kind .* cannot decode"):
                reader.segment(name, role)
        assert len(reader.segment("known", "values")) == 2048


def test_a_damaged_asset_is_refused(small: Path) -> None:
    with open_reader(small) as reader:
        offset = reader.assets["config.json"].offset
    data = bytearray(small.read_bytes())
    data[offset] ^= 4
    small.write_bytes(data)
    with open_reader(small) as reader:
        with pytest.raises(FormatError, match=r"small.ggq: asset config.json: the bytes do not fit their digest"):
            reader.assets["config.json"].read()


def test_a_file_that_becomes_shorter(small: Path) -> None:
    with open_reader(small) as reader:
        last = reader.tensors["output"].segments["values"]
        reader.segment("output", "values")
        os.truncate(small, last.offset + last.length - 1)
        with pytest.raises(FormatError, match=r"has become shorter since it was opened \(C-2\)"):
            reader.segment("output", "values")
        assert len(reader.segment("embedding", "codes")) == reader.tensors["embedding"].segments["codes"].length
        with pytest.raises(FormatError, match="has become shorter"):
            reader.assets["config.json"].read()
        problems = verify(reader)
    assert [problem.text for problem in problems] == ["the file has become shorter since it was opened (C-2)"]


def test_verify_tells_its_progress(small: Path) -> None:
    seen: list[tuple[int, int]] = []
    with open_reader(small) as reader:
        assert verify(reader, lambda done, size: seen.append((done, size))) == []
        assert seen[-1] == (reader.size, reader.size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > len(TENSORS)


def test_a_large_vocabulary_is_not_decoded_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.ggq"
    words = [f"word {number} \u00e9" for number in range(250_000)]
    with Writer(path) as writer:
        writer.add_metadata("tokenizer.words", words)
        writer.add_asset("tokenizer.json", bytes(5_000_000))
        writer.finish()
    with open_reader(path) as reader:
        data = reader.index.data
        assert reader.metadata["tokenizer.words"][249_999] == words[-1]  # type: ignore[index]
    tracemalloc.start()
    parse_index(data, newer=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(data)  # 250,000 Python strings take more


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "cannot open: No such file or directory\ncheck the path"),
        ("", "not a ggq file: a directory (C-1)"),
        ("model", "not a ggq file: a directory (C-1)\nmake a ggq file of the checkpoint with `ggq convert`"),
        ("empty", "the file is empty (C-1)\ndownload or convert it again"),
        ("short", "the file has 20 bytes, header and footer alone have 128 (C-1)\ndownload or convert it again"),
        ("picture", "begins with b'\\x89PNG\\r\\n\\x1a\\n' (C-1)\ngive a file that `ggq convert` has made"),
        ("loop", "cannot open: Too many levels of symbolic links"),
        ("fifo", "not a ggq file: a FIFO"),
        ("n" * 300, "cannot open: File name too long"),
        ("a\0b", "cannot open: embedded null byte"),
        ("small.ggq/x", "cannot open: Not a directory"),
    ],
)
def test_what_cannot_be_opened(small: Path, name: str, message: str) -> None:
    (small.parent / "loop").symlink_to("loop")
    os.mkfifo(small.parent / "fifo")
    (small.parent / "model").mkdir()
    (small.parent / "model" / "config.json").touch()
    (small.parent / "empty").touch()
    (small.parent / "short").write_bytes(small.read_bytes()[:20])
    (small.parent / "picture").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    with pytest.raises(GGQError) as caught:
        open_reader(os.path.join(small.parent, name))
    assert message in str(caught.value)


def test_a_device_is_refused() -> None:
    with pytest.raises(FormatError, match=r"/dev/zero: not a ggq file: a device \(C-1\)"):
        open_reader("/dev/zero")


def test_an_unreadable_file(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:  # the superuser may read everything, so permissions would not do
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(GGQError, match="cannot open: Permission denied\ncheck the permissions"):
        open_reader(small)


def test_a_file_that_is_too_large(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = small.stat().st_size
    monkeypatch.setattr("ggq.format.native.reader.MAX_FILE_BYTES", size)
    open_reader(small).close()
    monkeypatch.setattr("ggq.format.native.reader.MAX_FILE_BYTES", size - 1)
    with pytest.raises(FormatError, match=rf"a file of {size} bytes, allowed are {size - 1} \(C-2\)"):
        open_reader(small)


def test_a_disk_that_cannot_be_read(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reader: Reader, offset: int, buffer: memoryview) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Reader, "read_into", fail)
    with pytest.raises(GGQError, match="small.ggq: cannot read: Input/output error"):
        open_reader(small)


def test_opening_imports_little() -> None:
    script = "import sys; import ggq.format; print(sorted(m for m in sys.modules if '.' not in m))"
    modules = run_python("-c", script).stdout
    assert "'numpy'" in modules and "'blake3'" in modules
    for heavy in ("numba", "tokenizers", "jinja2", "safetensors", "typer", "rich", "hypothesis", "asyncio"):
        assert f"'{heavy}'" not in modules


def test_a_disk_that_fails_is_told_with_the_file(small: Path) -> None:
    class Failing:
        closed = False

        def seek(self, offset: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def close(self) -> None:
            pass

    with open_reader(small) as reader:
        name, entry = next(iter(reader.tensors.items()))
        reader._file.close()
        reader._file = Failing()  # type: ignore[assignment]
        with pytest.raises(GGQError, match=f"{small}: cannot read: Input/output error"):
            reader.read_segment(name, next(iter(entry.segments)))
