"""Temporary names: links, FIFOs and strangers' files there are refused, and nothing behind them is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggq.errors import GGQError, UsageError
from ggq.format import Writer, repack, unfinished
from ggq.format.unfinished import open_own, open_unfinished, replacing
from tests.kit.format_files import add_tensors, describe, write_small
from tests.kit.support import ROOT


def write(path: Path) -> None:
    with Writer(path) as writer:
        describe(writer)
        add_tensors(writer)
        writer.finish()


def copy(path: Path) -> None:
    source = path.with_name("source.ggq")
    if not source.exists():
        write_small(source)
    repack(source, path)


def save(path: Path) -> None:
    with replacing(path, b"marker") as file:
        file.write(b"marker and more")


WRITERS: list[tuple[Callable[[Path], None], str]] = [
    (write, ".partial"),
    (write, ".journal"),
    (copy, ".partial"),
    (copy, ".journal"),
    (save, ".partial"),
]


@pytest.mark.parametrize(("writer", "suffix"), WRITERS)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("symlink", "a symbolic link has the temporary name\nremove it"),
        ("dangling", "a symbolic link has the temporary name\nremove it"),
        ("link", r"has another name too \(a hard link\)\nremove it"),
        ("fifo", "a FIFO has the temporary name\nremove it"),
        ("folder", "a directory has the temporary name\nremove it"),
        ("file", "no interrupted run has left it\nmove it away"),
    ],
)
def test_what_lies_at_a_temporary_name_is_not_followed(
    path: Path, writer: Callable[[Path], None], suffix: str, how: str, message: str
) -> None:
    victim, place = path.with_name("victim"), Path(f"{path}{suffix}")
    victim.write_bytes(b"precious")
    if how == "symlink":
        place.symlink_to(victim)
    elif how == "dangling":
        place.symlink_to(path.with_name("made by the attack"))
    elif how == "link":
        os.link(victim, place)
    elif how == "fifo":
        os.mkfifo(place)
    elif how == "folder":
        place.mkdir()
    else:
        place.write_bytes(b"precious too")
    with pytest.raises(UsageError, match=message):
        writer(path)
    assert victim.read_bytes() == b"precious" and not path.exists()
    assert not path.with_name("made by the attack").exists()
    if how == "file":
        assert place.read_bytes() == b"precious too"


def test_force_replaces_a_file_that_nobody_knows_and_never_its_bytes(path: Path) -> None:
    place = Path(f"{path}.partial")
    place.write_bytes(b"precious")
    with open(place, "rb") as kept, replacing(path, b"marker", force=True) as file:
        file.write(b"marker")
        assert kept.read() == b"precious"
    assert path.read_bytes() == b"marker" and not place.exists()


@pytest.mark.parametrize("left", [b"", b"a marker of one that was interrupted"])
def test_what_an_interrupted_run_has_left_is_replaced(path: Path, left: bytes) -> None:
    Path(f"{path}.partial").write_bytes(left)
    save(path)
    assert path.read_bytes() == b"marker and more" and not Path(f"{path}.partial").exists()


def test_another_users_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(f"{path}.partial").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="the file of the temporary name belongs to another user\nremove it"):
        save(path)


def test_a_file_that_another_process_writes(path: Path) -> None:
    with (
        open_unfinished(f"{path}.partial", lambda head: True),
        pytest.raises(GGQError, match="another process is writing this file"),
    ):
        save(path)


def test_a_link_that_appears_between_the_look_and_the_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = path.with_name("victim")
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    status = os.lstat(victim)
    monkeypatch.setattr(unfinished.os, "lstat", lambda _: status)
    with pytest.raises(UsageError, match="a symbolic link has the temporary name"):
        open_own(os.fspath(path))


def test_a_disk_that_is_full_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished.os, "fsync", full)
    with pytest.raises(GGQError, match="cannot write: No space left on device"):
        save(path)
    assert list(path.parent.iterdir()) == []


FORKED = """
import os, signal, sys
import numpy as np
from ggq.format import Writer, open_reader, repack, verify
from ggq.format.scheme import Scheme
path = sys.argv[1]
def write(where):
    with Writer(where, keep=False, force=True) as writer:
        writer.add_tensor("a", (1 << 20,), Scheme("float", 32, "f32"), {"values": np.zeros(1 << 22, np.uint8)})
        writer.finish()
def check():
    with open_reader(path) as reader:
        assert not verify(reader)
write(path)
check()
for work in (check, lambda: write(path + "2"), lambda: repack(path, path + "3")):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child did not end well"
print("done")
"""


def test_a_process_that_has_hashed_forks_and_its_child_hashes(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.stdout == "done\n", run.stderr
