"""What was laid out of a GGUF file is kept, mapped the next time, and believed only while it is what was written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ggq
from ggq.errors import FormatError, UsageError
from ggq.gguf import container
from ggq.gguf.kept import folder, keeper, laid_out
from tests.gguf.test_model import WIDE, keys_of, llama, quantized
from tests.kit.gguf_files import write_gguf
from tests.kit.small_models import prompt

pytestmark = pytest.mark.kernels

TOKENS = prompt(WIDE, 20)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that nobody has written to for a while; small ones are kept too, in a folder of the test's own."""
    monkeypatch.setattr(folder, "LEAST_BYTES", 1)
    monkeypatch.setattr(folder, "folder", lambda: tmp_path / "kept")
    monkeypatch.setattr(keeper, "SETTLED", 0.0)
    return write_gguf(tmp_path / "m.gguf", keys_of(WIDE, "llama"), quantized(llama(WIDE), "Q4_K"))


@pytest.fixture
def laid(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the matrices that were laid out since."""
    names: list[str] = []
    before = container.GGUFModel._laid_out

    def spy(self: container.GGUFModel, entry: container.Entry, *more: object) -> object:
        if len(entry.shape) > 1:
            names.append(entry.name)
        return before(self, entry, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(container.GGUFModel, "_laid_out", spy)
    return names


def run(path: Path) -> np.ndarray:
    """Logits, when what is to be kept is whole."""
    with ggq.load(path) as found:
        logits = found.logits(TOKENS)
    for each in list(keeper._waiting):
        each.wait(60.0)
    return logits


def kept(path: Path) -> list[Path]:
    return sorted((path.parent / "kept").glob("*.tiles"))


def test_the_second_load_maps_what_the_first_has_kept(model: Path, laid: list[str]) -> None:
    first = run(model)
    assert laid and len(kept(model)) == 1 and kept(model)[0].stat().st_mode & 0o777 == 0o600
    laid.clear()
    np.testing.assert_array_equal(run(model), first)
    assert not laid


def flip(path: Path) -> None:
    """One byte in the middle, with the times of before."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def forge(path: Path) -> None:
    """Other numbers under the right key, with their digest, which another may write to."""
    data = bytearray(path.read_bytes())
    data[laid_out.PAGE :] = bytes(len(data) - laid_out.PAGE)
    digest = laid_out.hasher(len(data)).update(data[laid_out.PAGE :]).digest()
    data[len(laid_out.MARK) + laid_out.KEY :][: laid_out.DIGEST] = digest
    start = len(laid_out.MARK) + laid_out.KEY
    data[start : start + laid_out.DIGEST] = digest
    path.write_bytes(data)
    path.chmod(0o622)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def mark(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"x" + data[1:])


def link(path: Path) -> None:
    """A link to the right file."""
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("harm", [flip, forge, cut, mark, link], ids=lambda harm: harm.__name__)
def test_what_is_damaged_or_anothers_is_laid_out_again(
    harm: Callable[[Path], None], model: Path, laid: list[str]
) -> None:
    first = run(model)
    harm(kept(model)[0])
    laid.clear()
    np.testing.assert_array_equal(run(model), first)
    assert laid


@pytest.mark.parametrize("stamp", [b"", b"[]", None], ids=["empty", "another", "none"])
def test_a_file_without_its_stamp_is_read_whole_and_stamped(
    stamp: bytes | None, model: Path, laid: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model)
    place = kept(model)[0].with_suffix(".stamp")
    place.unlink() if stamp is None else place.write_bytes(stamp)
    hashed: list[int] = []
    before = laid_out.hasher
    monkeypatch.setattr(laid_out, "hasher", lambda size: (hashed.append(size), before(size))[1])
    laid.clear()
    run(model)
    run(model)
    assert not laid and len(hashed) == 1


def test_another_boot_reads_it_whole(model: Path, monkeypatch: pytest.MonkeyPatch, laid: list[str]) -> None:
    run(model)
    monkeypatch.setattr(laid_out, "_boot", lambda: "another")
    flip(kept(model)[0])
    laid.clear()
    run(model)
    assert laid


def test_another_source_is_another_file(model: Path, laid: list[str]) -> None:
    first = run(model)
    os.utime(model, ns=(1, 1))
    laid.clear()
    np.testing.assert_array_equal(run(model), first)
    assert laid and len(kept(model)) == 2


def test_a_source_that_was_written_just_now_is_not_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SETTLED", 1000.0)
    run(model)
    assert not kept(model)


def test_a_source_that_changes_while_it_is_laid_out_is_not_kept(model: Path) -> None:
    found = container.GGUFModel(model)
    for name, entry in found.tensors.items():
        found.segment(name, next(iter(entry.segments)))
    os.utime(model, ns=(1, 1))
    found.keep()
    time.sleep(0.1)
    assert not kept(model)
    found.close()


def test_the_file_used_longest_ago_goes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_gguf(tmp_path / "n.gguf", keys_of(WIDE, "llama"), quantized(llama(WIDE), "Q4_K"))
    run(model)
    (first,) = kept(model)
    run(other)
    (second,) = set(kept(model)) - {first}
    os.utime(second.with_suffix(".stamp"), (1, 1))
    run(model)  # used again, and later
    most = first.stat().st_size + second.stat().st_size
    monkeypatch.setattr(folder, "limit", lambda: most)
    os.utime(other, ns=(1, 1))
    run(other)
    assert first in kept(model) and second not in kept(model) and len(kept(model)) == 2


@pytest.mark.parametrize("said", ["off", "0", "1000"])
def test_the_environment_bounds_it(said: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGQ_GGUF_CACHE", said)
    run(model)
    assert not kept(model)


def test_sizes_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for said in ("", "20GB", "3 ", "2k", "1TiB", "7B"):
        monkeypatch.setenv("GGQ_GGUF_CACHE", said)
        found.append(folder.limit())
    assert found == [folder.MOST_BYTES, 20 << 30, 3, 2048, 1 << 40, 7]
    monkeypatch.setenv("GGQ_GGUF_CACHE", "much")
    with pytest.raises(UsageError, match="GGQ_GGUF_CACHE is 'much', allowed are off and sizes such as 20GB"):
        folder.limit()


def test_a_full_disk_leaves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(laid_out.os, "pwrite", full)
    run(model)
    assert list((model.parent / "kept").iterdir()) == []


def test_unfinished_files_of_others_go_in_time(model: Path) -> None:
    place = model.parent / "kept"
    place.mkdir(mode=0o700)
    for name, age in (("old.part", 1000.0), ("new.part", 0.0)):
        (place / name).write_bytes(b"x")
        os.utime(place / name, (time.time() - age,) * 2)
    run(model)
    assert [path.name for path in place.glob("*.part")] == ["new.part"]


def test_a_kept_file_that_is_cut_short_in_use_is_told(model: Path) -> None:
    run(model)
    with ggq.load(model) as found:
        found.logits(TOKENS)
        os.truncate(kept(model)[0], laid_out.PAGE)
        with pytest.raises(FormatError, match="have changed while they were used"):
            found.logits(TOKENS)


def test_a_kept_file_that_is_removed_in_use_stays_mapped(model: Path) -> None:
    run(model)
    with ggq.load(model) as found:
        expected = found.logits(TOKENS)
        folder.remove(kept(model)[0])
        np.testing.assert_array_equal(found.logits(TOKENS), expected)
